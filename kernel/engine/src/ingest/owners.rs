//! Names of users and groups, from the system's own files. It asks no directory service: a name it does not find there
//! stays empty, and the number counts.

use std::collections::HashMap;
use std::path::Path;

/// A file of names longer than this is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Numbers to names, for users or for groups.
pub struct Owners(HashMap<u32, Vec<u8>>);

impl Owners {
    /// The users of this machine.
    pub fn users() -> Owners {
        Owners::of(Path::new("/etc/passwd"))
    }

    /// The groups of this machine.
    pub fn groups() -> Owners {
        Owners::of(Path::new("/etc/group"))
    }

    /// The name of a number; empty if there is none.
    pub fn name(&self, number: u32) -> Vec<u8> {
        self.0.get(&number).cloned().unwrap_or_default()
    }

    fn of(path: &Path) -> Owners {
        let short = std::fs::metadata(path).is_ok_and(|found| found.len() <= FILE_BYTES_MAX);
        let bytes = if short { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
        Owners(parse(&bytes))
    }
}

/// Both files have lines of `name:password:number:...`; the first line of a number counts, as it does for the C
/// library.
fn parse(bytes: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        let Some(number) = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) else { continue };
        if (1..=crate::page::OWNER_BYTES_MAX).contains(&name.len()) {
            names.entry(number).or_insert_with(|| name.to_vec());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_odd_lines_do_not() {
        let names = parse(b"root:x:0:0::/:\ntoor:x:0:0\n# note\n::7\n+\nuser:x:1000:1000:A:/home\n");

        assert_eq!(names.len(), 2);
        assert_eq!(names[&0], b"root");
        assert_eq!(names[&1000], b"user");
    }
}
