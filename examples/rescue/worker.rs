//! A thread that works through a queue of jobs, as in a pool.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use throwto::ThreadId;
use throwto::thread::{Builder, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

pub struct Worker {
    thread: JoinHandle<()>,
    queue: Sender<Job>,
}

/// What a job returned, and the thread that ran it.
pub struct Done<T> {
    pub value: T,
    pub ran_in: Option<ThreadId>,
}

impl Worker {
    pub fn start(name: &str) -> io::Result<Self> {
        let (queue, jobs) = channel::<Job>();
        let thread = Builder::new()
            .name(name.into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))?;
        Ok(Self { thread, queue })
    }

    pub fn id(&self) -> ThreadId {
        self.thread.id()
    }

    /// Queues `job`. What it returns comes through the channel; a channel that closes instead means that it panicked.
    pub fn give<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<Done<T>> {
        let (reply, done) = channel();
        let job = move || {
            let value = job();
            let _nobody_waits = reply.send(Done {
                value,
                ran_in: ThreadId::current(),
            });
        };
        // Should the thread have ended, the job and with it `reply` is dropped here, and the channel closes.
        let _ = self.queue.send(Box::new(job));
        done
    }

    /// Closes the queue and waits for the thread's end.
    pub fn finish(self) -> Result<(), String> {
        drop(self.queue);
        self.thread.join().map_err(|error| error.to_string())
    }
}
