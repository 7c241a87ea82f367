//! A server's accept loop, as everybody writes it, stopped from outside while it is blocked in `accept`.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use throwto::foreign::{Call, CallError};
use throwto::{ReceiptState, Stop, raise_exc, thread};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    let server = thread::spawn(move || {
        let mut served = 0;
        loop {
            // std's own `accept`, which would sleep through any signal.
            match Call::new("accept").fail_syscalls().try_run(|| listener.accept()) {
                Ok((mut client, _)) => {
                    // The client sends nothing: this ends when it hangs up.
                    let _ = client.read(&mut [0; 64]);
                    served += 1;
                }
                Err(CallError::Raised(raised)) => {
                    return format!("{served} served, then {}", raised.type_name());
                }
                Err(error) => return format!("{served} served, then {error}"),
            }
        }
    });

    for _ in 0..3 {
        let client = TcpStream::connect(address)?;
        client.shutdown(std::net::Shutdown::Write)?;
        // The server hangs up when it is done with us.
        (&client).read_to_end(&mut Vec::new())?;
    }

    let receipt = raise_exc(&server, Stop)?;
    println!("{}", server.join()?);
    assert_eq!(receipt.state(), ReceiptState::Caught);

    let refused = TcpStream::connect(address).is_err();
    println!("the port is free again: {refused}");
    Ok(())
}

// Output:
// 3 served, then throwto::Stop
// the port is free again: true
