//! What an image lets be read, with hand-made segments and first pages.
//!
//! **Signal context:** no.

use super::*;

const PAGE: usize = 4096;
/// Segments of a page each, in this order and apart from each other.
const READ: usize = 0;
const WRITE: usize = 2 * PAGE;
const CODE: usize = 4 * PAGE;
const CLOSED: usize = 6 * PAGE;

#[repr(align(4096))]
struct Pages([u8; 8 * PAGE]);

static PAGES: Pages = Pages([0x5a; 8 * PAGE]);

fn header(kind: u32, flags: u32, at: usize, size: usize) -> libc::Elf64_Phdr {
    libc::Elf64_Phdr {
        p_type: kind,
        p_flags: flags,
        p_offset: 0,
        p_vaddr: at as u64,
        p_paddr: 0,
        p_filesz: 0,
        p_memsz: size as u64,
        p_align: 0,
    }
}

/// An image in `PAGES` with an index of frames at `index`, and where it begins.
fn of_every_permission(index: usize) -> (Image, usize) {
    let headers = vec![
        header(libc::PT_GNU_EH_FRAME, libc::PF_R, index, PAGE),
        header(libc::PT_LOAD, libc::PF_R, READ, PAGE),
        header(libc::PT_LOAD, libc::PF_R | libc::PF_W, WRITE, PAGE),
        header(libc::PT_LOAD, libc::PF_R | libc::PF_X, CODE, PAGE),
        header(libc::PT_LOAD, libc::PF_W, CLOSED, PAGE),
    ];
    let start = (&raw const PAGES) as usize;
    (Image::of(start, headers.leak()).unwrap(), start)
}

/// Shows platform::linux::image I2.
#[test]
fn nothing_is_read_but_what_a_segment_lets_be_read() {
    let (image, start) = of_every_permission(READ);
    let length = |at: usize| image.bytes_from(start.wrapping_add(at)).map(<[u8]>::len);
    let word = |at: usize| image.word_at(start.wrapping_add(at)).is_some();
    for (segment, slices, words, code) in [
        (READ, true, true, false),
        (WRITE, false, true, false),
        (CODE, true, true, true),
        (CLOSED, false, false, false),
    ] {
        assert_eq!(length(segment), slices.then_some(PAGE), "{segment:#x}");
        assert_eq!(length(segment + PAGE - 1), slices.then_some(1), "{segment:#x}");
        assert_eq!(length(segment + PAGE), None, "behind {segment:#x}");
        assert_eq!(length(segment.wrapping_sub(1)), None, "before {segment:#x}");
        assert_eq!(
            (word(segment), word(segment + PAGE - 8)),
            (words, words),
            "{segment:#x}"
        );
        assert!(
            !word(segment.wrapping_sub(8)) && !word(segment + PAGE),
            "{segment:#x}"
        );
        for odd in 1..8 {
            assert!(!word(segment + odd), "{segment:#x}, not aligned");
            assert!(!word(segment + PAGE - odd), "{segment:#x}, not whole");
        }
        let range = start + segment..start + segment + PAGE;
        assert_eq!(
            image.code(start + segment + 5),
            code.then_some(range),
            "{segment:#x}"
        );
        assert_eq!(image.has_code(start + segment), code, "{segment:#x}");
    }
    let cut = vec![header(libc::PT_LOAD, libc::PF_R, READ, PAGE - 4)];
    let cut = Image::of(start, cut.leak()).unwrap();
    assert!(cut.word_at(start + PAGE - 16).is_some() && cut.word_at(start + PAGE - 8).is_none());
    assert!(image.word_at(usize::MAX - 7).is_none() && image.bytes_from(0).is_none());
    assert_eq!(image.range(), start..start + CLOSED + PAGE);
}

#[test]
fn an_index_of_frames_is_looked_for_in_readable_segments_only() {
    let found = |index| of_every_permission(index).0.frame_index().map(<[u8]>::len);
    assert_eq!(found(READ + PAGE - 12), Some(12));
    for nowhere in [READ + PAGE, WRITE, CLOSED, 0_usize.wrapping_sub(8)] {
        assert_eq!(found(nowhere), None, "{nowhere:#x}");
    }
    let none: &'static [_] = vec![header(libc::PT_LOAD, libc::PF_R, READ, PAGE)].leak();
    let image = Image::of((&raw const PAGES) as usize, none).unwrap();
    assert!(image.frame_index().is_none());
}

#[test]
fn segments_that_end_behind_the_last_address_or_are_empty_are_none() {
    assert!(Image::of(0, &[]).is_none());
    let empty = vec![header(libc::PT_LOAD, libc::PF_R, 16, 0)];
    assert!(Image::of(0, empty.leak()).is_none());
    let endless = vec![header(libc::PT_LOAD, libc::PF_R, 16, usize::MAX)];
    assert_eq!(Image::of(0, endless.leak()).unwrap().range(), 16..usize::MAX);
}

#[test]
fn program_headers_are_read_only_from_a_first_page_that_holds_them() {
    #[repr(align(4096))]
    struct First([u8; PAGE]);
    const ENTRY: usize = size_of::<libc::Elf64_Phdr>();
    let most = ((PAGE - 64) / ENTRY) as u16;
    let read = |magic: &[u8], offset: u64, size: u16, count: u16| {
        let page = Box::leak(Box::new(First([0; PAGE])));
        page.0[..magic.len()].copy_from_slice(magic);
        let fields = [
            (
                std::mem::offset_of!(libc::Elf64_Ehdr, e_phoff),
                &offset.to_ne_bytes()[..],
            ),
            (
                std::mem::offset_of!(libc::Elf64_Ehdr, e_phentsize),
                &size.to_ne_bytes(),
            ),
            (
                std::mem::offset_of!(libc::Elf64_Ehdr, e_phnum),
                &count.to_ne_bytes(),
            ),
        ];
        for (at, field) in fields {
            page.0[at..at + field.len()].copy_from_slice(field);
        }
        headers_at(page.0.as_ptr() as usize).map(<[_]>::len)
    };
    const MAGIC: &[u8] = b"\x7fELF\x02";
    let size = ENTRY as u16;
    assert_eq!(read(MAGIC, 64, size, 3), Some(3));
    assert_eq!(read(MAGIC, 64, size, most), Some(usize::from(most)));
    assert_eq!(read(MAGIC, 64, size, most + 1), None, "beyond the page");
    assert_eq!(read(MAGIC, 64, size, u16::MAX), None);
    assert_eq!(read(MAGIC, PAGE as u64, size, 1), None);
    assert_eq!(
        read(MAGIC, u64::MAX - 7, size, 1),
        None,
        "behind the last address"
    );
    assert_eq!(read(MAGIC, 60, size, 3), None, "not aligned");
    assert_eq!(read(MAGIC, 64, size - 8, 3), None, "of another size");
    assert_eq!(read(b"\x7fELF\x01", 64, size, 3), None, "of 32 bits");
    assert_eq!(read(b"MZ", 64, size, 3), None);
    assert!(headers_at(0).is_none() && headers_at(PAGES.0.as_ptr() as usize + 64).is_none());
}

#[test]
fn a_name_that_no_loader_knows_is_no_image() {
    for name in ["", "no such library", "with\0zero", "libthrowto-of-nobody.so.7"] {
        assert!(Image::loaded(name).is_none(), "{name:?}");
    }
    // The whole path, its last part, and what `dlopen` calls it.
    let libc = Image::all()
        .into_iter()
        .find(|(_, kind)| *kind == Kind::Libc)
        .unwrap()
        .0;
    let path = libc.name();
    assert_eq!(
        (Image::loaded(&path), Image::loaded(last_part(&path))),
        (Some(libc), Some(libc))
    );
    assert_eq!(Image::known_to_loader("libc.so.6"), Some(libc));
    assert_eq!(libc.defines(c"getpid").map(|at| libc.has_code(at)), Some(true));
    assert_eq!(libc.defines(c"of nobody"), None);
    assert_eq!(Image::program().unwrap().name(), Image::program().unwrap().name());
    assert!(Image::program().unwrap().name().contains("throwto"));
}

#[test]
fn the_names_of_libraries_tell_what_they_are_for() {
    for (path, kind) in [
        ("linux-vdso.so.1", Some(Kind::Vdso)),
        ("/lib64/ld-linux-x86-64.so.2", Some(Kind::Loader)),
        ("/lib/libc.so.6", Some(Kind::Libc)),
        ("/lib/libgcc_s.so.1", Some(Kind::Unwinder)),
        ("/opt/libjemalloc.so.2", Some(Kind::Allocator)),
        ("/usr/lib/libstdc++.so.6.0.30", Some(Kind::CxxRuntime)),
        ("/usr/lib/libz.so.1", None),
        ("..", None),
        ("", None),
    ] {
        assert_eq!(by_name(last_part(path)), kind, "{path}");
    }
}

#[test]
fn an_image_that_no_file_is_for_defines_nothing_that_can_be_looked_up() {
    let vdso = Image::all().into_iter().find(|(_, kind)| *kind == Kind::Vdso);
    for image in vdso
        .into_iter()
        .map(|(image, _)| image)
        .chain([of_every_permission(READ).0])
    {
        assert_eq!(image.defines(c"getpid"), None);
    }
}
