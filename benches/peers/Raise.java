import java.nio.ByteBuffer;
import java.nio.channels.Pipe;
import java.util.Arrays;
import java.util.concurrent.locks.LockSupport;

/** What Java takes: Thread.interrupt into a parked thread, and into one that reads (which closes its channel). */
class Raise {
    static volatile long left;
    static volatile boolean about;

    interface Blocks {
        void block() throws Exception;
    }

    static void tell(String what, long[] samples) {
        Arrays.sort(samples);
        double p50 = samples[(samples.length - 1) / 2] / 1000.0;
        double p99 = samples[(int) ((samples.length - 1) * 0.99)] / 1000.0;
        System.out.printf("%s\t%.2f\t%.2f%n", what, p50, p99);
    }

    static void latency(String what, Blocks blocks) throws Exception {
        long[] samples = new long[1000];
        for (int i = -1000; i < samples.length; i++) {
            about = false;
            Thread thread = new Thread(() -> {
                about = true;
                try {
                    blocks.block();
                } catch (Exception closed) {
                    // The channel is closed by the interrupt: that is its way out.
                }
                left = System.nanoTime();
            });
            thread.start();
            while (!about) {
                Thread.onSpinWait();
            }
            Thread.sleep(0, 300_000);
            long began = System.nanoTime();
            thread.interrupt();
            thread.join();
            if (i >= 0) {
                samples[i] = left - began;
            }
        }
        tell(what, samples);
    }

    public static void main(String[] arguments) throws Exception {
        latency("interrupt, parked", () -> {
            while (!Thread.currentThread().isInterrupted()) {
                LockSupport.park();
            }
        });
        latency("interrupt, NIO read (the channel dies)", () -> {
            Pipe pipe = Pipe.open();
            try {
                pipe.source().read(ByteBuffer.allocate(1));
            } finally {
                pipe.sink().close();
            }
        });
    }
}
