//! Differences to bytes. It asks the walk and writes columns; what is worth saying is decided entry by entry.

use super::changes::{Step, Walk};
use super::{BaseFile, COLUMNS, Class, Column, IS_NEW, PART_BYTES, REMEMBERED_MAX, SECOND_NS, State, field, op, way};
use crate::Result;
use crate::address::{Address, Extent, offset_of};
use crate::page::{Content, Entry, EntryKind, PageRef};
use crate::tree::{OldPages, PageSource, join};
use crate::varint::{VARINT_BYTES_MAX, put, zigzag};

/// Extents that begin so close to the start of a segment are where the tip goes when its segment is full: ingest
/// aligns a run to less than this.
const SEGMENT_START_BYTES: u32 = 4096;
/// Distances of more bytes than this are hardly the tip's.
const NEAR_CODE_BYTES: usize = 3;

/// Says of a file, by its path, whether its content digest is told.
type Tells = dyn FnMut(&[u8], &Entry) -> Result<bool> + Send;

/// Writes the script from one tree to another, part by part.
///
/// `holds` says of a directory's root page whether the receiver holds that directory with all that is in it.
pub struct Encoder<S, H> {
    source: S,
    walk: Walk<S, H>,
    /// For each directory on the way: the pages of its base, and whether all pages are placed all the same.
    ways: Vec<(OldPages, bool)>,
    state: State,
    columns: [Vec<u8>; COLUMNS],
    run: Option<(u8, u64)>,
    /// Pages that are complete: said with the next entry.
    pages: Vec<PageRef>,
    /// What did not go into the last part.
    next: Option<Step>,
    tells: Option<Box<Tells>>,
    /// A part ends when it has this many bytes.
    pub(super) part_bytes: usize,
}

impl<S: PageSource + Clone, H: FnMut(&PageRef) -> Result<bool>> Encoder<S, H> {
    /// The script that makes `new` of `base`; without one, of nothing.
    pub fn new(source: S, new: &Entry, base: Option<&Entry>, holds: H) -> Self {
        Encoder {
            walk: Walk::new(source.clone(), new.clone(), base.cloned(), holds, true),
            source,
            ways: Vec::new(),
            state: State::new(base),
            columns: Default::default(),
            run: None,
            pages: Vec::new(),
            next: None,
            tells: None,
            part_bytes: PART_BYTES,
        }
    }

    /// Tells the content digests of those files of which `tells` says so: it is asked for each file that differs in
    /// content, with its path. Only a receiver that is [sparse](super::Applier::sparse) takes them.
    pub fn telling_digests(mut self, tells: impl FnMut(&[u8], &Entry) -> Result<bool> + Send + 'static) -> Self {
        self.tells = Some(Box::new(tells));
        self
    }

    /// The next part, of about [`PART_BYTES`] and never more than [`PART_BYTES_MAX`](super::PART_BYTES_MAX); `None`
    /// after the last. There is always one.
    pub fn next_part(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let step = match self.next.take() {
                Some(step) => Some(step),
                None => self.walk.step()?,
            };
            match step {
                None => {
                    self.end_run();
                    return Ok(self.take_part());
                }
                Some(Step::Page(page)) => self.pages.push(page),
                Some(step) if self.columns.iter().map(Vec::len).sum::<usize>() >= self.part_bytes.max(1) => {
                    self.end_run();
                    self.next = Some(step);
                    return Ok(self.take_part());
                }
                Some(step) => self.say(step)?,
            }
        }
    }

    fn say(&mut self, step: Step) -> Result<()> {
        if let Step::Removed(_) = step {
            self.go_on(op::SKIP, 1);
            return Ok(());
        }
        self.place_pages();
        match step {
            Step::Kept(count) => self.go_on(op::KEEP, count),
            Step::Entry { new, old } => match old {
                Some(old) => {
                    self.go_on(op::CHANGE, 1);
                    self.fields(&new, &old, false)?;
                }
                None => {
                    self.go_on(op::ADD, 1);
                    self.name(&new.name);
                    let blank = self.state.blank(Vec::new(), false);
                    self.fields(&new, &blank, false)?;
                }
            },
            Step::Enter => self.enter()?,
            Step::Leave { new, old } => {
                // What is left of the base stays without being told.
                self.run = self.run.filter(|run| run.0 != op::KEEP);
                self.once(op::LEAVE);
                self.ways.pop();
                let blank = old.map_or_else(|| self.state.blank(Vec::new(), true), |old| *old);
                self.fields(&new, &blank, true)?;
            }
            Step::Removed(_) | Step::Page(_) => {}
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<()> {
        let Some(frame) = self.walk.frames.last() else { return Ok(()) };
        let Some(before) = frame.before.as_ref().and_then(Entry::page) else {
            let name = frame.directory.name.clone();
            self.once(op::ENTER_NEW);
            self.name(&name);
            self.ways.push((OldPages::none(), true));
            return Ok(());
        };
        let old = OldPages::of(&self.source, &before)?;
        let new = frame.directory.page().map(|page| OldPages::of(&self.source, &page)).transpose()?;
        // The receiver keeps a page that means the same. Where ours lies elsewhere, its bytes would be others.
        let all = new.is_some_and(|new| new.is_elsewhere_in(&old));
        self.once(if all { op::ENTER_PLACING } else { op::ENTER });
        self.ways.push((old, all));
        Ok(())
    }

    fn place_pages(&mut self) {
        let Some((old, all)) = self.ways.last() else { return };
        for page in self.pages.drain(..) {
            if *all || old.get(&page.digest).is_none() {
                let distance = page.address.wrapping_sub(self.state.tip);
                put(zigzag(distance as i64), &mut self.columns[Column::Places as usize]);
                self.state.tip = page.extent().end();
            }
        }
    }

    fn go_on(&mut self, op: u8, count: u64) {
        match &mut self.run {
            Some(run) if run.0 == op => run.1 += count,
            _ => {
                self.end_run();
                self.run = (count > 0).then_some((op, count));
            }
        }
    }

    fn end_run(&mut self) {
        if let Some((op, count)) = self.run.take() {
            let short = (count - 1).min(op::SHORT_MAX);
            self.column(Column::Ops).push(op | (short as u8) << op::BITS);
            if short == op::SHORT_MAX {
                put(count - 1 - short, self.column(Column::Counts));
            }
        }
    }

    fn once(&mut self, op: u8) {
        self.end_run();
        self.column(Column::Ops).push(op);
    }

    fn column(&mut self, column: Column) -> &mut Vec<u8> {
        &mut self.columns[column as usize]
    }

    fn name(&mut self, name: &[u8]) {
        let shared = self.state.name.iter().zip(name).take_while(|(a, b)| a == b).count();
        self.column(Column::Shared).push(shared as u8);
        self.column(Column::Lengths).push((name.len() - shared) as u8);
        self.column(Column::Text).extend_from_slice(&name[shared..]);
        self.state.name = name.to_vec();
    }

    /// The fields of `new` that are not those of `old`. `is_rebuilt` of a directory whose pages the receiver makes.
    fn fields(&mut self, new: &Entry, old: &Entry, is_rebuilt: bool) -> Result<()> {
        let mut fields = 0;
        let mut note = |differs: bool, field: u8| {
            if differs {
                fields |= field;
            }
        };
        let class = Class::of(new);
        note(new.mtime_ns != old.mtime_ns, field::MTIME);
        note(!class.is_of(old), field::CLASS);
        note(new.size != old.size, field::SIZE);
        let same_content = match new.kind {
            // An empty file has a digest, too: the receiver knows it without being told.
            EntryKind::File if new.size == 0 && old.size == 0 => true,
            EntryKind::File => new.content == old.content && new.digest == old.digest,
            EntryKind::Directory => is_rebuilt || new.content == old.content,
            _ => new.target == old.target && new.rdev == old.rdev,
        };
        note(!same_content, field::CONTENT);
        note(new.link_id != old.link_id, field::LINK);
        note(new.xattrs != old.xattrs, field::XATTRS);
        if fields & field::CONTENT != 0 && new.size > 0 && self.tells_digest(new)? {
            fields |= field::DIGEST;
            self.column(Column::Digests).extend_from_slice(&new.digest);
        }
        self.column(Column::Fields).push(fields);
        if fields & field::CLASS != 0 {
            self.class(&class);
        }
        if fields & field::MTIME != 0 {
            let (seconds, nanos) = (new.mtime_ns.div_euclid(SECOND_NS), new.mtime_ns.rem_euclid(SECOND_NS));
            let (after, beyond) = (seconds - self.state.seconds, nanos - self.state.nanos);
            put(zigzag(after), self.column(Column::Seconds));
            put(zigzag(beyond), self.column(Column::Nanos));
            (self.state.seconds, self.state.nanos) = (seconds, nanos);
        }
        if fields & field::SIZE != 0 {
            match old.size {
                0 => put(new.size, self.column(Column::Sizes)),
                before => put(zigzag(new.size as i64 - before as i64), self.column(Column::Growths)),
            }
        }
        if fields & field::CONTENT != 0 {
            self.content(new, old);
        }
        if fields & field::LINK != 0 {
            self.column(Column::Links).extend_from_slice(&new.link_id.to_le_bytes());
        }
        if fields & field::XATTRS != 0 {
            let out = self.column(Column::Xattrs);
            put(new.xattrs.len() as u64, out);
            for bytes in new.xattrs.iter().flat_map(|(name, value)| [name, value]) {
                put(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn tells_digest(&mut self, file: &Entry) -> Result<bool> {
        let Some(tells) = &mut self.tells else { return Ok(false) };
        let mut path = self.walk.path.clone();
        if !self.walk.frames.is_empty() {
            join(&mut path, &file.name);
        }
        tells(&path, file)
    }

    fn class(&mut self, class: &Class) {
        match self.state.classes.values.iter().position(|known| known == class) {
            Some(number) => self.column(Column::Classes).push(number as u8),
            None => {
                let owner = self.state.owners.values.iter().position(|known| *known == class.owner);
                let out = self.column(Column::Classes);
                out.extend_from_slice(&[IS_NEW, class.kind as u8]);
                out.extend_from_slice(&(class.mode as u16).to_le_bytes());
                out.push(owner.map_or(IS_NEW, |number| number as u8));
                if owner.is_none() {
                    put(u64::from(class.owner.uid), out);
                    put(u64::from(class.owner.gid), out);
                    for name in [&class.owner.user, &class.owner.group] {
                        out.push(name.len() as u8);
                        out.extend_from_slice(name);
                    }
                    self.state.owners.add(class.owner.clone());
                }
                self.state.classes.add(class.clone());
            }
        }
        self.state.class_told(class.clone());
    }

    fn content(&mut self, new: &Entry, old: &Entry) {
        match &new.content {
            Content::Extents(extents) => self.extents(extents, &mut BaseFile::of(old)),
            Content::Listed { list, count } => {
                self.column(Column::Ways).push(way::LISTED);
                put(*count, self.column(Column::ExtentLengths));
                put(list.iter().map(|part| part.length).sum(), self.column(Column::ExtentLengths));
                self.extents(list, &mut BaseFile { extents: &[], offset: 0 });
            }
            Content::Directory(page) => {
                let distance = page.address.wrapping_sub(self.state.elsewhere);
                put(zigzag(distance as i64), self.column(Column::Pointers));
                put(u64::from(page.length), self.column(Column::ExtentLengths));
                self.state.elsewhere = page.extent().end();
            }
            Content::None if new.kind == EntryKind::Symlink => {
                let out = self.column(Column::Others);
                put(new.target.len() as u64, out);
                out.extend_from_slice(&new.target);
            }
            Content::None if new.kind.is_device() => put(new.rdev, self.column(Column::Others)),
            Content::None => {}
        }
    }

    fn extents(&mut self, extents: &[Extent], base: &mut BaseFile<'_>) {
        for (at, &extent) in extents.iter().enumerate() {
            let is_last = at + 1 == extents.len();
            let (way, from) = self.way(extent, base);
            self.column(Column::Ways).push(way | if is_last { way::LAST } else { 0 });
            if way != way::HOLE {
                put(zigzag(extent.address.wrapping_sub(from) as i64), self.column(Column::Pointers));
            }
            if !is_last {
                put(extent.length, self.column(Column::ExtentLengths));
            }
            match way {
                way::TIP => self.state.tip = extent.end(),
                way::ELSEWHERE => self.state.elsewhere = extent.end(),
                _ => {}
            }
            base.pass(extent, way == way::BASE);
        }
    }

    /// How an extent is said, and from where: the shortest, but the tip is left where it is by what is far from it.
    fn way(&self, extent: Extent, base: &BaseFile<'_>) -> (u8, Address) {
        if extent.is_hole() {
            return (way::HOLE, 0);
        }
        let State { tip, elsewhere, .. } = self.state;
        let bytes = |from: Address| code_bytes(zigzag(extent.address.wrapping_sub(from) as i64));
        let expected = base.expected();
        let (from_tip, from_base) = (bytes(tip), expected.map_or(VARINT_BYTES_MAX, bytes));
        let from_elsewhere = bytes(elsewhere);
        let may_be_tip = from_tip <= NEAR_CODE_BYTES || tip == 0 || offset_of(extent.address) < SEGMENT_START_BYTES;
        match expected {
            Some(expected) if from_base <= from_elsewhere && (from_base < from_tip || !may_be_tip) => {
                (way::BASE, expected)
            }
            _ if may_be_tip && from_tip <= from_elsewhere => (way::TIP, tip),
            _ => (way::ELSEWHERE, elsewhere),
        }
    }

    fn take_part(&mut self) -> Option<Vec<u8>> {
        let columns = std::mem::take(&mut self.columns);
        let present = |column: &&Vec<u8>| !column.is_empty();
        let last = columns.iter().rposition(|column| !column.is_empty())?;
        let bits =
            columns.iter().enumerate().filter(|(_, column)| present(column)).fold(0, |bits, (at, _)| bits | 1 << at);
        let mut part = Vec::with_capacity(columns.iter().map(Vec::len).sum::<usize>() + 2 * COLUMNS);
        put(bits, &mut part);
        columns[..last].iter().filter(present).for_each(|column| put(column.len() as u64, &mut part));
        columns.iter().for_each(|column| part.extend_from_slice(column));
        Some(part)
    }
}

fn code_bytes(code: u64) -> usize {
    (64 - code.leading_zeros() as usize).div_ceil(7).max(1)
}

const _: () =
    assert!(REMEMBERED_MAX <= IS_NEW as usize, "a number of what is remembered is less than that of a new one");
const _: () = assert!(PART_BYTES < super::PART_BYTES_MAX, "a part is ended before it is too long");
