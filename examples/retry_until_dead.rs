//! A thread that swallows exceptions is raised into until it gives up; one that cannot end is reported with its place.

use std::sync::mpsc;
use std::time::Duration;

use throwto::{ExcType, Retry, Stop, raise_until_dead, thread, threads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // "It works on my machine": catch everything, go on. It has five such places.
    let stubborn = thread::Builder::new().name("stubborn".into()).spawn(|| {
        for _ in 0..5 {
            let _swallowed = thread::sleep(Duration::from_secs(3600));
        }
    })?;
    let retry = Retry {
        every: Duration::from_millis(1),
        give_up_after: Duration::from_secs(60),
    };
    let dead = raise_until_dead(&stubborn, ExcType::of::<Stop>(), retry)?;
    println!(
        "stubborn: dead after {} raises in {:?}",
        dead.raises, dead.elapsed
    );
    assert!(dead.raises >= 5);

    // This one waits in std, which knows nothing of exceptions, and no region says that it may be broken there.
    let (sender, receiver) = mpsc::channel::<()>();
    let deaf = thread::Builder::new()
        .name("deaf".into())
        .spawn(move || receiver.recv().is_err())?;
    while !threads()
        .iter()
        .any(|t| t.id == deaf.id() && t.where_blocked.starts_with("futex"))
    {
        std::thread::yield_now();
    }
    let retry = Retry {
        give_up_after: Duration::from_millis(200),
        ..Retry::default()
    };
    match raise_until_dead(&deaf, ExcType::of::<Stop>(), retry) {
        Ok(_) => println!("deaf: dead"),
        Err(alive) => {
            let place = alive.info.map(|info| info.where_blocked).unwrap_or_default();
            println!("deaf: still alive, {} caught, it is in: {place}", alive.caught);
        }
    }

    drop(sender);
    println!("deaf: its sender has gone: {}", deaf.join()?);
    Ok(())
}

// Output:
// stubborn: dead after .. raises in ..
// deaf: still alive, 0 caught, it is in: futex wait..
// deaf: its sender has gone: true
