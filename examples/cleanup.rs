//! A worker that is stopped in the middle of things and leaves nothing half done: `bracket`, `mask` and `catch`.

use std::time::Duration;

use throwto::{Interrupted, Stop, bracket, catch, mask, safepoint_unwind, thread};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (started, wait_for_start) = std::sync::mpsc::channel();

    let worker = thread::spawn(move || {
        // The exception unwinds to here, past every destructor on its way.
        let raised = catch(|| {
            bracket(
                || {
                    println!("connect");
                    "connection"
                },
                |connection| {
                    println!("work with the {connection}");
                    let _ = started.send(());
                    loop {
                        safepoint_unwind();
                    }
                },
                // Masked: a second exception waits until this is done.
                |connection| println!("close the {connection}"),
            )
        });
        let first = raised.map_or_else(|raised| raised.is::<Interrupted>(), |()| false);
        println!("out of the bracket by Interrupted: {first}");

        mask(|m| {
            // Held back as long as we only compute; `restore` opens a window for it.
            println!("masked, a step that must not be torn");
            let woken = m.restore(|| thread::sleep(Duration::from_secs(3600)));
            println!(
                "woken by {}",
                woken.map_or_else(|raised| raised.type_name(), |()| "the clock")
            );
        });
    });

    wait_for_start.recv()?;
    worker.raise(Interrupted)?;
    worker.raise(Stop)?;
    worker.join()?;
    Ok(())
}

// Output:
// connect
// work with the connection
// close the connection
// out of the bracket by Interrupted: true
// masked, a step that must not be torn
// woken by throwto::Stop
