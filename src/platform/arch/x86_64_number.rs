//! The number of a system call, read from the machine code that makes it, where the kernel does not tell it.
//!
//! Owns: reading x86-64 instructions far enough for that. Leaves to `linux::substitute` what the number means.
//! Pure functions of the bytes handed in: any thread may call; nothing blocks, allocates or panics.
//!
//! **Signal context:** yes, because every function is pure and indexes nothing.
//!
//! - I1. The number that a straight run into the instruction loads, or `None`: never a guess.

/// How far before the instruction the number is looked for.
const REACH: usize = 32;

/// The call number that the code in front of a `syscall` instruction loads; `code` ends right before its
/// `0f 05`. Sixteen bytes are enough for most calls: a load counts only with six bytes before it.
///
/// Instructions can only be read forwards. So each place that looks like a load of EAX is tried as a start,
/// and counts when (1) the bytes before it cannot make it the tail of a longer instruction
/// (`tail_of_longer`), and (2) from there on instructions that leave RAX alone (`harmless`) end exactly at
/// the `syscall`. No such place, or two that disagree: `None`.
///
/// What bytes cannot show is a jump between the load and the `syscall`. Of 1078 `syscall` instructions in the
/// 271 binaries of a Debian 12 none has one; there this gives 870 numbers, all right, and refuses 81 it could
/// have known. glibc 2.36 has 526: in 436 `mov eax, imm32` stands directly before (read, accept, poll, ..),
/// in 3 `xor eax, eax`, in the rest the number comes out of a register (thread cancellation, `syscall(3)`:
/// `None`), or loads of ESI, EDI, EDX and R8 to R10 stand between.
pub(crate) fn decode_number(code: &[u8]) -> Option<i64> {
    let mut found = None;
    for start in code.len().saturating_sub(REACH)..code.len() {
        let (before, rest) = code.split_at_checked(start)?;
        let Some((number, after)) = loads_number(rest) else {
            continue;
        };
        if tail_of_longer(before, rest) || !only_harmless(after) {
            continue;
        }
        if found.is_some_and(|other| other != number) {
            return None;
        }
        found = Some(number);
    }
    found
}

/// `mov eax, imm32`, `mov rax, imm32` or `xor eax, eax`, and the code after it. Numbers end well below 1024;
/// higher ones are the x32 interface or no numbers at all.
fn loads_number(code: &[u8]) -> Option<(i64, &[u8])> {
    match code {
        [0xb8, a, b @ 0..=3, 0, 0, after @ ..] | [0x48, 0xc7, 0xc0, a, b @ 0..=3, 0, 0, after @ ..] => {
            Some((i64::from(u16::from_le_bytes([*a, *b])), after))
        }
        [0x31, 0xc0, after @ ..] => Some((0, after)),
        _ => None,
    }
}

/// Whether the load at the head of `rest` could be the last bytes of a longer instruction that begins in
/// `before`; true as well when too little of `before` is there to tell.
///
/// Left out, because nobody writes them: displacements and jumps of more than 1 GB backwards (their top bytes
/// would be `b8` or `c0`), and operands in memory based on RAX, which at the `syscall` would be an address
/// and no number.
fn tail_of_longer(before: &[u8], rest: &[u8]) -> bool {
    // Opcodes whose operand is followed by an imm32 (`mov`, group 1, `imul`, `test`) or by an imm8 (group 1,
    // shifts, `imul`..).
    const IMM32: [u8; 4] = [0xc7, 0x81, 0x69, 0xf7];
    const IMM8: [u8; 7] = [0x80, 0x83, 0xc0, 0xc1, 0x6b, 0xc6, 0xf6];
    let [.., p6, p5, p4, p3, p2, p1] = *before else {
        return true;
    };
    let extends_base = |prefix: u8| prefix & 0xf1 == 0x41;
    let sib_follows = |modrm: u8, mode: u8| modrm & 0xc7 == mode << 6 | 4;
    match rest {
        [0xb8, ..] => {
            // mov r8d, imm32
            extends_base(p1) && p1 & 8 == 0
                // as ModRM: an operand [r8 + disp32], plain, 0f, 0f 38, VEX or EVEX; lea from RAX
                || extends_base(p2) || p2 == 0x0f && extends_base(p3) || p3 == 0x0f && extends_base(p4)
                || p4 == 0xc4 || p6 == 0x62 || p1 == 0x8d
                // as SIB: [r8 + rdi * 4 + disp32]; mov [r8 + rdi * 4], imm32
                || sib_follows(p1, 2) || IMM32.contains(&p2) && sib_follows(p1, 0)
                // as disp8 before an imm32: mov dword [rbp - 0x48], imm32
                || IMM32.contains(&p2) && p1 >> 6 == 1 || IMM32.contains(&p3) && sib_follows(p2, 1)
                // inside an imm64
                || p5 & 0xf8 == 0x48 && p4 & 0xf8 == 0xb8
        }
        [0x31, ..] => {
            // xor of other registers; `48` is still RAX
            p1 & 0xf0 == 0x40 && p1 != 0x48
                // as ModRM or SIB, c0 being an imm8 or disp8: add dword [rcx], -64; mov ecx, [rcx + rsi - 64]
                || IMM8.contains(&p1) || p2 == 0x0f || sib_follows(p1, 1)
                // as disp8 before an imm8
                || IMM8.contains(&p2) && p1 >> 6 == 1 || IMM8.contains(&p3) && sib_follows(p2, 1)
        }
        _ => false,
    }
}

/// Whether `code` is nothing but instructions that leave RAX alone and fall through.
fn only_harmless(mut code: &[u8]) -> bool {
    while !code.is_empty() {
        match harmless(code) {
            Some(rest) => code = rest,
            None => return false,
        }
    }
    true
}

/// Steps over one instruction that fills another register than RAX: `mov` from register, memory or imm32,
/// `lea`, `xor` between registers.
fn harmless(code: &[u8]) -> Option<&[u8]> {
    let (rex, code) = match code {
        [rex @ 0x40..=0x4f, rest @ ..] => (*rex, rest),
        _ => (0, code),
    };
    let (&opcode, rest) = code.split_first()?;
    if matches!(opcode, 0xb8..=0xbf) {
        let imm64 = rex & 8 != 0;
        return if imm64 || opcode == 0xb8 && rex & 1 == 0 {
            None
        } else {
            rest.get(4..)
        };
    }
    let (&modrm, rest) = rest.split_first()?;
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let (fills_rax, operand) = match (opcode, mode) {
        (0x89 | 0x31, 3) => (rm == 0 && rex & 1 == 0, 0),
        (0x8b | 0x33, 3) => (reg == 0 && rex & 4 == 0, 0),
        (0x8b | 0x8d, 0..=2) => {
            let sib = if rm == 4 { Some(*rest.first()?) } else { None };
            let displacement = match mode {
                0 if rm == 5 || sib.is_some_and(|sib| sib & 7 == 5) => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            };
            (
                reg == 0 && rex & 4 == 0,
                displacement + usize::from(sib.is_some()),
            )
        }
        _ => return None,
    };
    if fills_rax { None } else { rest.get(operand..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `80 3d 81 06 0d 00 00 | 41 89 ca | ..` as hexadecimal text.
    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect()
    }

    #[test]
    fn glibc_2_36_gives_its_numbers_away() {
        let table = [
            (
                "1f 84 00 00 00 00 00 80 3d 31 33 0e 00 00 74 17 31 c0",
                libc::SYS_read,
            ),
            (
                "8b 54 24 18 48 8b 74 24 10 41 89 c0 8b 7c 24 08 31 c0",
                libc::SYS_read,
            ),
            (
                "48 8b 74 24 10 41 89 c0 48 8b 7c 24 08 b8 07 00 00 00",
                libc::SYS_poll,
            ),
            (
                "54 24 10 41 89 c0 8b 74 24 0c 8b 3c 24 b8 e6 00 00 00",
                libc::SYS_clock_nanosleep,
            ),
            (
                "18 41 89 c0 48 8b 74 24 10 8b 7c 24 0c b8 e8 00 00 00",
                libc::SYS_epoll_wait,
            ),
            (
                "8b 54 24 10 48 8b 74 24 08 b8 19 01 00 00 8b 7c 24 04",
                libc::SYS_epoll_pwait,
            ),
            (
                "18 48 8b 74 24 10 41 89 c0 8b 7c 24 0c b8 2b 00 00 00",
                libc::SYS_accept,
            ),
            (
                "10 41 89 c0 48 8b 74 24 08 8b 7c 24 18 b8 20 01 00 00",
                libc::SYS_accept4,
            ),
            (
                "14 41 89 c0 48 8b 74 24 08 8b 7c 24 10 b8 3d 00 00 00",
                libc::SYS_wait4,
            ),
            (
                "41 89 c1 44 8b 54 24 1c 48 8b 54 24 10 b8 f7 00 00 00",
                libc::SYS_waitid,
            ),
            (
                "02 b8 ff ff ff ff eb d4 e8 50 f9 01 00 b8 49 00 00 00",
                libc::SYS_flock,
            ),
            (
                "24 0c 48 8b 34 24 41 89 c0 8b 7c 24 08 b8 2a 00 00 00",
                libc::SYS_connect,
            ),
            (
                "00 00 41 89 ca 74 1c 45 31 c9 45 31 c0 b8 2d 00 00 00",
                libc::SYS_recvfrom,
            ),
            (
                "24 0c 48 8b 34 24 41 89 c0 8b 7c 24 08 b8 2f 00 00 00",
                libc::SYS_recvmsg,
            ),
        ];
        for (code, number) in table {
            assert_eq!(decode_number(&bytes(code)), Some(number), "{code}");
        }
    }

    #[test]
    fn moves_into_other_registers_may_stand_between() {
        let between = [
            "",
            "49 89 ca",
            "4c 89 c2 31 f6",
            "41 b8 01 00 00 00",
            "48 8b 7c 24 08 8b 34 24",
            "be 80 00 00 00",
        ];
        for moves in between {
            for (load, number) in [
                ("b8 17 00 00 00", 23),
                ("31 c0", 0),
                ("48 31 c0", 0),
                ("48 c7 c0 0e 01 00 00", 270),
            ] {
                let code = format!("5d 41 5c c3 90 90 90 90 {load} {moves}");
                assert_eq!(decode_number(&bytes(&code)), Some(number), "{code}");
            }
        }
    }

    /// Shows platform::arch::x86_64_number I1.
    #[test]
    fn what_could_be_read_another_way_is_not_guessed() {
        let table = [
            ("", "nothing"),
            (
                "44 89 c0",
                "mov eax, r8d: cancellable calls of the loader, syscall(3)",
            ),
            ("b8 07 00 00 00 44 89 c0", "EAX filled again"),
            ("b8 07 00 00 00 8b 04 24", "EAX filled again from memory"),
            ("b8 07 00 00 00 83 c0 01", "EAX changed"),
            ("b8 07 00 00 00 e8 00 00 00 00", "a call between"),
            ("b8 07 00 00 00 74 05", "a jump between"),
            ("b8 07 00 00 00 48 8b", "cut"),
            ("b8 07 00 00 40", "x32"),
            ("b8 ff ff ff ff", "no number"),
            ("41 b8 07 00 00 00", "mov r8d, 7"),
            (
                "74 41 b8 e6 00 00 00",
                "je +41; mov eax, 230 or mov r8d, 230 (glibc, the path of single-threaded programs)",
            ),
            ("41 8b b8 07 00 00 00", "mov edi, [r8 + 7]"),
            ("41 0f b6 b8 07 00 00 00", "movzx edi, byte [r8 + 7]"),
            ("41 8b bc b8 07 00 00 00", "mov edi, [r8 + rdi * 4 + 7]"),
            ("8d b8 07 00 00 00", "lea edi, [rax + 7]"),
            ("c7 45 b8 07 00 00 00", "mov dword [rbp - 0x48], 7"),
            ("c7 44 24 b8 07 00 00 00", "mov dword [rsp - 0x48], 7"),
            ("41 c7 04 b8 07 00 00 00", "mov dword [r8 + rdi * 4], 7"),
            ("48 bf 00 00 00 b8 07 00 00 00", "mov rdi, 0x7b8000000"),
            ("45 31 c0", "xor r8d, r8d"),
            ("83 31 c0", "xor dword [rcx], -64"),
            ("8b 4c 31 c0", "mov ecx, [rcx + rsi - 64]"),
            ("83 7c 24 31 c0", "cmp dword [rsp + 0x31], -64"),
        ];
        for (code, meaning) in table {
            assert_eq!(
                decode_number(&bytes(&format!("90 90 90 90 90 90 {code}"))),
                None,
                "{meaning}"
            );
            assert_eq!(decode_number(&bytes(code)), None, "{meaning}, alone");
        }
    }

    #[test]
    fn any_bytes_have_an_answer() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for length in (0..48).cycle().take(100_000) {
            let code: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Half of the bytes out of the decoder's own vocabulary.
                    let random = (state >> 33) as usize;
                    let known = [0xb8, 0x31, 0xc0, 0x48, 0x89, 0x8b, 0, 0];
                    if random & 8 == 0 {
                        known[random & 7]
                    } else {
                        (random >> 8) as u8
                    }
                })
                .collect();
            assert!(decode_number(&code).is_none_or(|number| (0..1024).contains(&number)));
        }
    }
}
