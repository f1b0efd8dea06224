//! Patterns as in .gitignore, for names and patterns of any bytes. It opens nothing: who asks has the path.
//!
//! The crate `ignore` matches; it takes text, and reads braces as alternatives and `[[:alpha:]]` by the letter. So a
//! line is first said in its terms: a byte from 0x80 on is the character of that number, in patterns and in paths
//! alike, and a set becomes what it holds. git is the judge of what comes out (tests/end_to_end/test_selection.py).

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{Error, Result};

/// One byte of a name from 0x80 on, as it is said to the matcher: two bytes.
const HIGH_BYTE: &str = "[\u{c2}-\u{c3}]?";
/// Stands for a set without a member: the matcher never lets a set match a slash.
const NOTHING: &str = "[/]";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A pattern and where it was written, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The option, or `file:number`.
    pub place: String,
    /// The pattern; with `!` in front what it matches is kept.
    pub pattern: Vec<u8>,
}

/// Patterns in order; the last that matches decides.
#[derive(Clone, Debug)]
pub struct Patterns(Gitignore);

impl Patterns {
    /// The patterns of some lines, none of which is a comment. [`Error::Usage`] names the first that is no pattern.
    pub fn new<'l>(lines: impl IntoIterator<Item = &'l Line>) -> Result<Patterns> {
        let mut builder = GitignoreBuilder::new("");
        for Line { place, pattern } in lines {
            let no_pattern = |why: &str| {
                Error::Usage(format!("{place}: \"{}\" is no pattern: {why}", String::from_utf8_lossy(pattern)))
            };
            let said = said(pattern).map_err(no_pattern)?;
            builder.add_line(None, &said).map_err(|error| no_pattern(&error.to_string()))?;
        }
        let built = builder.build();
        built.map(Patterns).map_err(|error| Error::Usage(format!("these patterns are too much together: {error}")))
    }

    /// The patterns in a file called `place`: a line each, without comments and empty lines.
    pub fn of_file(bytes: &[u8], place: &str) -> Result<Patterns> {
        Patterns::new(&lines_of(bytes, place))
    }

    /// Whether the last pattern that matches `path` excludes it (`Some(true)`) or keeps it; `None` if none does.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        let path = characters(path);
        match self.0.matched(Path::new(OsStr::from_bytes(path.as_bytes())), is_directory) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        }
    }
}

/// The patterns in a file called `place`.
pub fn lines_of(bytes: &[u8], place: &str) -> Vec<Line> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).enumerate();
    lines
        .map(|(index, line)| (index, without_last_spaces(line)))
        .filter(|(_, line)| !line.starts_with(b"#") && !line.is_empty())
        .map(|(index, line)| Line { place: format!("{place}:{}", index + 1), pattern: line.to_vec() })
        .collect()
}

/// A line of a file as far as it means something: spaces at its end do if a backslash says so.
fn without_last_spaces(line: &[u8]) -> &[u8] {
    let (mut at, mut end) = (0, 0);
    while at < line.len() {
        let is_quoted = line[at] == b'\\';
        at += 1 + usize::from(is_quoted);
        if is_quoted || line[at - 1] != b' ' {
            end = at.min(line.len());
        }
    }
    &line[..end]
}

/// Bytes as text: each is the character of its number.
fn characters(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// A pattern as the matcher understands it, or why it is none.
fn said(pattern: &[u8]) -> std::result::Result<String, &'static str> {
    let mut said = String::with_capacity(pattern.len() + 8);
    if pattern.is_empty() {
        return Err("it is empty");
    }
    if pattern.contains(&0) {
        return Err("it holds a NUL byte");
    }
    // A comment is a matter of files; here it is a name.
    if pattern[0] == b'#' {
        said.push('\\');
    }
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        match byte {
            b'\\' => {
                let &next = pattern.get(at).ok_or("it ends with a backslash")?;
                at += 1;
                if next.is_ascii() && !char::from(next).is_whitespace() {
                    said.push('\\');
                }
                push_character(&mut said, next);
            }
            b'{' | b'}' => said.extend(['\\', byte.into()]),
            b'?' => said.push_str(&alternatives(&Set::all(), false)),
            b'[' => {
                let (set, after) = Set::parse(pattern, at)?;
                // A slash in a set matches nothing; but a pattern with a slash anywhere is one of a whole path.
                said.push_str(&alternatives(&set, pattern[at..after].contains(&b'/')));
                at = after;
            }
            _ => push_character(&mut said, byte),
        }
    }
    Ok(said)
}

/// Say one byte that means itself. The matcher cuts off what it takes for spaces at the end of a line, and the last
/// byte of "\u{e0}" is one by its number; none in braces.
fn push_character(said: &mut String, byte: u8) {
    let character = char::from(byte);
    if character.is_whitespace() {
        said.extend(['{', character, '}']);
    } else {
        said.push(character);
    }
}

/// Some bytes.
struct Set([bool; 256]);

impl Set {
    /// Every byte that a name may have.
    fn all() -> Set {
        Set(std::array::from_fn(|byte| byte != 0 && byte != usize::from(b'/')))
    }

    /// The set that begins behind the bracket before `at`, and where it has ended.
    fn parse(pattern: &[u8], mut at: usize) -> std::result::Result<(Set, usize), &'static str> {
        let byte_at = |at: usize| pattern.get(at).copied().ok_or("a [ has no ]");
        let negated = matches!(byte_at(at)?, b'!' | b'^');
        at += usize::from(negated);
        let mut set = [false; 256];
        let mut before = None;
        loop {
            let mut byte = byte_at(at)?;
            let range_ends = || matches!(pattern.get(at + 1), Some(&next) if next != b']');
            match (byte, before) {
                (b'\\', _) => {
                    at += 1;
                    byte = byte_at(at)?;
                    set[usize::from(byte)] = true;
                    before = Some(byte);
                }
                (b'-', Some(first)) if range_ends() => {
                    at += 1;
                    at += usize::from(byte_at(at)? == b'\\');
                    (first..=byte_at(at)?).for_each(|byte| set[usize::from(byte)] = true);
                    before = None;
                }
                (b'[', _) if pattern.get(at + 1) == Some(&b':') => {
                    let length = pattern[at + 2..].iter().position(|&byte| byte == b']').ok_or("a [ has no ]")?;
                    match pattern[at + 2..at + 2 + length].strip_suffix(b":") {
                        Some(name) => {
                            let is_in = class_of(name).ok_or("it names no class of characters that there is")?;
                            (0..=127u8).filter(is_in).for_each(|byte| set[usize::from(byte)] = true);
                            at += 2 + length;
                            before = None;
                        }
                        None => {
                            set[usize::from(b'[')] = true;
                            before = Some(b'[');
                        }
                    }
                }
                _ => {
                    set[usize::from(byte)] = true;
                    before = Some(byte);
                }
            }
            at += 1;
            if byte_at(at)? == b']' {
                break;
            }
        }
        let Set(all) = Set::all();
        Ok((Set(std::array::from_fn(|byte| all[byte] && set[byte] != negated)), at + 1))
    }
}

/// The bytes in a class such as `[:alpha:]`.
fn class_of(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// One byte of a set, in the matcher's terms: `{[a-c],\],ü}`; with a slash somewhere if it `has_slash`.
fn alternatives(Set(set): &Set, has_slash: bool) -> String {
    let mut parts = Vec::new();
    let mut class = String::new();
    let is_plain = |byte: u8| set[usize::from(byte)] && byte < 128 && !b"[]^!-\\".contains(&byte);
    let mut byte = 1;
    while byte < 128 {
        let first = byte;
        while is_plain(byte) {
            byte += 1;
        }
        match byte - first {
            0 => byte += 1,
            1 => class.push(first.into()),
            _ => class.extend([char::from(first), '-', char::from(byte - 1)]),
        }
    }
    if !class.is_empty() {
        parts.push(format!("[{class}]"));
    }
    let special = b"[]^!-\\".iter().filter(|&&byte| set[usize::from(byte)]);
    parts.extend(special.map(|&byte| format!("\\{}", char::from(byte))));
    if set[128..].iter().all(|&is_in| is_in) {
        parts.push(HIGH_BYTE.into());
    } else {
        parts.extend((128..=255u8).filter(|&byte| set[usize::from(byte)]).map(|byte| char::from(byte).to_string()));
    }
    if has_slash || parts.is_empty() {
        parts.push(NOTHING.into());
    }
    format!("{{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(lines: &[&[u8]]) -> Patterns {
        let line = |pattern: &&[u8]| Line { place: "--exclude".into(), pattern: pattern.to_vec() };
        Patterns::new(&lines.iter().map(line).collect::<Vec<_>>()).unwrap()
    }

    fn is_excluded(pattern: &[u8], path: &[u8]) -> bool {
        patterns(&[pattern]).excludes(path, false) == Some(true)
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let some = patterns(&[b"*.o", b"!keep.o", b"/build/", b"build/keep.o"]);

        assert_eq!(some.excludes(b"deep/a.o", false), Some(true));
        assert_eq!(some.excludes(b"deep/keep.o", false), Some(false));
        assert_eq!(some.excludes(b"build/keep.o", false), Some(true));
        assert_eq!((some.excludes(b"build", true), some.excludes(b"build", false)), (Some(true), None));
        assert_eq!(some.excludes(b"a.c", false), None);
    }

    #[test]
    fn a_question_mark_and_a_set_are_one_byte_of_any_name() {
        for (pattern, matching, other) in [
            (&b"a?c"[..], &b"a\xffc"[..], &b"a\xc3\xa4c"[..]),
            (b"a??c", b"a\xc3\xa4c", b"a\xffc"),
            (b"[\xe4-\xe6]", b"\xe5", b"\xe7"),
            (b"[!a]", b"\x80", b"a"),
            (b"\xff*", b"\xff\xfe", b"\xfe"),
            (b"[]-]", b"-", b"a"),
            (b"[^]-]", b"a", b"]"),
            (b"[[:alpha:]\\]]", b"]", b"1"),
            (b"{a,b}", b"{a,b}", b"a"),
            (b"#*#", b"#x#", b"x"),
        ] {
            assert!(is_excluded(pattern, matching), "{}", pattern.escape_ascii());
            assert!(!is_excluded(pattern, other), "{}", pattern.escape_ascii());
        }
    }

    #[test]
    fn spaces_at_the_end_count_but_in_a_line_of_a_file() {
        assert!(is_excluded(b"a ", b"a ") && !is_excluded(b"a ", b"a"));
        assert!(is_excluded(b"a\t", b"a\t") && is_excluded(b" ", b" "));
        for name in ["voil\u{e0}", "\u{c5}", "a\u{85}", "a\u{a0}"] {
            assert!(is_excluded(name.as_bytes(), name.as_bytes()), "{name:?}");
        }
        let read: Vec<_> = lines_of(b"a  \n b\\  \n  \nc\\", "file").into_iter().map(|line| line.pattern).collect();
        assert_eq!(read, [b"a".to_vec(), b" b\\ ".to_vec(), b"c\\".to_vec()]);
    }

    #[test]
    fn what_is_no_pattern_is_told_with_its_place() {
        for (pattern, why) in [
            (&b"[a"[..], "a [ has no ]"),
            (b"a\\", "it ends with a backslash"),
            (b"[[:what:]]", "it names no class of characters that there is"),
            (b"a\0b", "it holds a NUL byte"),
        ] {
            let file = [b"# not here\r\n\r\n*.o\r\n", pattern].concat();

            let error = Patterns::of_file(&file, "some/.filter").unwrap_err().to_string();

            let shown = String::from_utf8_lossy(pattern);
            assert_eq!(error, format!("some/.filter:4: \"{shown}\" is no pattern: {why}"));
        }
    }
}
