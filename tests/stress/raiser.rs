//! Who raises: by every kind of target, in every way, and takes some of it back.

use throwto::{
    ExcType, Raise, RaiseError, Raised, Receipt, ReceiptState, Stop, Target, raise_exc, set_async_exc,
};

use crate::books::{Books, Sent};
use crate::stage::*;
use crate::watchdog::Beat;

pub fn work(books: &Books, seed: u64, beat: &Beat) {
    let mut dice = Dice::new(seed);
    let mut later: Vec<Receipt> = Vec::new();
    while !books.over() {
        let kind = dice.roll(40);
        beat.step(kind);
        let sent = match kind {
            0 => {
                set_async_exc(
                    target(books, &mut dice),
                    (dice.roll(2) == 0).then(ExcType::of::<Stop>),
                );
                continue;
            }
            1 => broadcast(books.group.raise(ExcType::of::<Stop>())),
            2 => Raise::new(ExcType::of::<Stop>())
                .tree()
                .to(target(books, &mut dice))
                .map_or(Vec::new(), broadcast),
            3..8 => vec![to_scope(books, &mut dice)],
            _ => vec![one(books, &mut dice)],
        };
        for sent in &sent {
            if let Sent::Numbered(_, receipt) | Sent::Broadcast(receipt) = sent {
                match dice.roll(12) {
                    0 => drop(receipt.revoke()),
                    1 => later.push(receipt.clone()),
                    2 => {
                        // Whoever takes it back late finds it settled, or settles it.
                        if let Some(old) = later.pop() {
                            let state = old.state();
                            assert!(!old.revoke() || state == ReceiptState::Pending);
                        }
                    }
                    _ => {}
                }
            }
        }
        books.send(sent);
        match dice.roll(16) {
            0 => std::thread::sleep(std::time::Duration::from_micros(dice.roll(3000))),
            1..6 => wait_some(&mut dice),
            _ => std::thread::yield_now(),
        }
    }
}

fn wait_some(dice: &mut Dice) {
    for _ in 0..dice.roll(2000) {
        std::hint::spin_loop();
    }
}

fn target(books: &Books, dice: &mut Dice) -> Target {
    let live = books.live.lock().unwrap();
    match (dice.roll(6), live.len()) {
        (0, _) | (_, 0) => "stressed".into(),
        (1, _) => "lone 3".into(),
        (_, n) => live[dice.roll(n as u64) as usize].into(),
    }
}

fn broadcast(receipts: Vec<Receipt>) -> Vec<Sent> {
    receipts.into_iter().map(Sent::Broadcast).collect()
}

fn to_scope(books: &Books, dice: &mut Dice) -> Sent {
    let scope = {
        let scopes = books.scopes.lock().unwrap();
        match scopes.len() {
            0 => None,
            n => Some(scopes[dice.roll(n as u64) as usize].1.clone()),
        }
    };
    match scope {
        None => one(books, dice),
        Some(scope) => {
            if dice.roll(4) == 0 {
                scope.cancel();
            }
            let exception = Numbered::new(&books.ledger);
            let number = exception.number;
            told(number, Raise::new(exception).queue().to_scope(&scope))
        }
    }
}

fn one(books: &Books, dice: &mut Dice) -> Sent {
    let target = target(books, dice);
    match dice.roll(3) {
        0 => {
            let exception = Other::new(&books.ledger);
            told(exception.number, raise_exc(target, exception))
        }
        1 => {
            let exception = Numbered::new(&books.ledger);
            told(exception.number, raise_exc(target, exception))
        }
        _ => {
            let exception = Numbered::new(&books.ledger);
            told(exception.number, Raise::new(exception).queue().to(target))
        }
    }
}

fn told(number: u64, result: Result<Receipt, RaiseError>) -> Sent {
    match result {
        Ok(receipt) => Sent::Numbered(number, receipt),
        Err(RaiseError::NoSuchThread { .. } | RaiseError::Ambiguous { .. } | RaiseError::ScopeNotOpen) => {
            Sent::Refused(number)
        }
        Err(other) => panic!("{other}"),
    }
}

/// What a target does with whatever it meets.
pub fn settle(books: &Books, met: Result<(), Raised>) {
    if let Err(raised) = met {
        books.meet(&raised);
    }
}
