# What Ruby takes: Thread#raise into a thread that reads, sleeps or computes; Timeout.timeout around nothing.

require "timeout"

class Out < StandardError; end

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)

def tell(what, samples)
  samples.sort!
  p50, p99 = [0.5, 0.99].map { |p| samples[((samples.size - 1) * p).to_i] / 1000.0 }
  puts format("%s\t%.2f\t%.2f", what, p50, p99)
end

def latency(what, count, asleep: true)
  samples = count.times.map do
    left = nil
    thread = Thread.new do
      yield
    rescue Out
      left = now
    end
    if asleep
      Thread.pass until thread.status == "sleep"
      sleep 0.0002
    else
      Thread.pass
    end
    began = now
    thread.raise(Out)
    thread.join
    left - began
  end
  tell(what, samples)
end

# The first raise into a thread that has not begun its block would end it unseen: nobody is told of that.
Thread.report_on_exception = false
reader, _writer = IO.pipe
latency("Thread#raise, blocked in read", 1000) { reader.read(1) }
latency("Thread#raise, in sleep", 1000) { sleep }
samples = 2000.times.map do
  began = now
  Timeout.timeout(10) { nil }
  now - began
end
tell("Timeout.timeout around nothing", samples)
