//! The two sweeps over a whole tree, ingest and checkout, with Python as their host.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::entry::{Entry, kind_name, page_from};
use crate::exactly;
use crate::failure::{carried, raised};
use crate::select::{Patterns, Selection};
use crate::space::{Lease, Space};
use packetfs_engine::checkout::spare::Care;
use packetfs_engine::checkout::{
    self as engine_checkout, Action, Before, Change, How, Missed, OnProgress, OwnerName, Owners, Report, Root,
};
use packetfs_engine::ingest::{
    self as engine_ingest, Host, LeaseHandle, Options, Origin, Owner, ProblemKind, Progress, Source,
};
use packetfs_engine::itemize::letters;
use packetfs_engine::page::decode_root;
use packetfs_engine::{Error, Result, unverified};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Changes told at once.
const REPORT_MAX: usize = 4096;

/// Python as the host of an ingest: it grants leases and hears how far it is.
struct PythonHost {
    grant: Py<PyAny>,
    progress: Py<PyAny>,
    owner_name: Py<PyAny>,
    origin: Option<PythonOrigin>,
}

/// Python as the way to the origin.
struct PythonOrigin(Py<PyAny>);

impl Host for PythonHost {
    fn grant(&mut self, full: Option<LeaseHandle>) -> Result<LeaseHandle> {
        Python::attach(|py| {
            let full = full.map(Lease::of);
            let granted = self.grant.bind(py).call1((full,))?;
            granted.cast::<Lease>()?.get().engine()
        })
        .map_err(carried)
    }

    fn progress(&mut self, progress: &Progress) -> Result<()> {
        Python::attach(|py| {
            let done = (
                progress.files,
                progress.directories,
                progress.logical_bytes,
                progress.new_bytes,
                progress.unchanged_bytes,
            );
            self.progress.bind(py).call1(done).map(drop)
        })
        .map_err(carried)
    }

    fn owner_name(&mut self, owner: Owner) -> Result<Vec<u8>> {
        let (kind, number) = match owner {
            Owner::User(number) => ("user", number),
            Owner::Group(number) => ("group", number),
        };
        Python::attach(|py| {
            let name = self.owner_name.bind(py).call1((kind, number))?;
            Ok(name.cast::<PyBytes>()?.as_bytes().to_vec())
        })
        .map_err(carried)
    }

    fn origin(&mut self) -> Option<&mut dyn Origin> {
        self.origin.as_mut().map(|origin| origin as &mut dyn Origin)
    }
}

impl Origin for PythonOrigin {
    fn begin(&mut self, tags: &[u64]) -> Result<u64> {
        let tags: Vec<u8> = tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
        Python::attach(|py| self.0.bind(py).call_method1("begin", (PyBytes::new(py, &tags),))?.extract())
            .map_err(carried)
    }

    fn end(&mut self, ticket: u64) -> Result<Vec<u8>> {
        Python::attach(|py| {
            let answer = self.0.bind(py).call_method1("end", (ticket,))?;
            Ok(answer.cast::<PyBytes>()?.as_bytes().to_vec())
        })
        .map_err(carried)
    }

    fn lease_for(&mut self, segment: u64) -> Result<LeaseHandle> {
        Python::attach(|py| {
            let lease = self.0.bind(py).call_method1("lease_for", (segment,))?;
            lease.cast::<Lease>()?.get().engine()
        })
        .map_err(carried)
    }
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Ingested {
    value: engine_ingest::Ingested,
}

#[pymethods]
impl Ingested {
    #[getter]
    fn root<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.root)
    }

    #[getter]
    fn root_digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.root_digest)
    }

    #[getter]
    fn lease(&self) -> Option<Lease> {
        self.value.lease.clone().map(Lease::of)
    }

    #[getter]
    fn cache_written(&self) -> bool {
        self.value.cache_written
    }

    #[getter]
    fn repaired(&self) -> bool {
        self.value.repaired
    }

    #[getter]
    fn files(&self) -> u64 {
        self.value.stats.files
    }

    #[getter]
    fn directories(&self) -> u64 {
        self.value.stats.directories
    }

    #[getter]
    fn symlinks(&self) -> u64 {
        self.value.stats.symlinks
    }

    #[getter]
    fn logical_bytes(&self) -> u64 {
        self.value.stats.logical_bytes
    }

    #[getter]
    fn unchanged_files(&self) -> u64 {
        self.value.stats.unchanged_files
    }

    #[getter]
    fn unchanged_bytes(&self) -> u64 {
        self.value.stats.unchanged_bytes
    }

    #[getter]
    fn known_bytes(&self) -> u64 {
        self.value.stats.known_bytes
    }

    #[getter]
    fn asked_known_bytes(&self) -> u64 {
        self.value.stats.asked_known_bytes
    }

    #[getter]
    fn new_bytes(&self) -> u64 {
        self.value.stats.new_bytes
    }

    #[getter]
    fn page_bytes(&self) -> u64 {
        self.value.stats.page_bytes
    }

    fn changes(
        &self,
        py: Python<'_>,
        space: Bound<'_, Space>,
        old: Option<(u64, u32, Vec<u8>)>,
        report: Py<PyAny>,
    ) -> PyResult<()> {
        let old = old.as_ref().map(page_from).transpose()?;
        let engine = &space.get().engine;
        py.detach(|| {
            let mut batch = Vec::new();
            self.value.changes(engine, old, &mut |change| {
                batch.push(change);
                if batch.len() < REPORT_MAX { Ok(()) } else { tell(&report, &std::mem::take(&mut batch)) }
            })?;
            if batch.is_empty() { Ok(()) } else { tell(&report, &batch) }
        })
        .map_err(|error| raised(py, error))
    }

    #[getter]
    fn excluded(&self) -> u64 {
        self.value.stats.excluded
    }

    #[getter]
    fn problem_count(&self) -> u64 {
        self.value.stats.problems
    }

    #[getter]
    fn problems<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, &'static str, i32)> {
        let word = |kind| match kind {
            ProblemKind::Vanished => "vanished",
            ProblemKind::Changed => "changed",
            ProblemKind::Unreadable => "unreadable",
            ProblemKind::Missing => "missing",
            ProblemKind::Unsupported => "unsupported",
            ProblemKind::Attributes => "attributes",
        };
        let problems = self.value.problems.iter();
        problems.map(|problem| (PyBytes::new(py, &problem.path), word(problem.kind), problem.errno)).collect()
    }
}

/// See `_kernel.pyi`.
#[pyfunction]
#[pyo3(signature = (space, sources, *, prior, next, previous, clean_before_ns, clean_device, dry_run, grant, progress, owner_name, ask = None, selection = None, keep_pages = false))]
pub fn ingest(
    py: Python<'_>,
    space: Bound<'_, Space>,
    sources: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    prior: Option<Vec<u8>>,
    next: Option<Vec<u8>>,
    previous: Option<(u64, u32, Vec<u8>)>,
    clean_before_ns: i64,
    clean_device: u64,
    dry_run: bool,
    grant: Py<PyAny>,
    progress: Py<PyAny>,
    owner_name: Py<PyAny>,
    ask: Option<Py<PyAny>>,
    selection: Option<Bound<'_, Selection>>,
    keep_pages: bool,
) -> PyResult<Ingested> {
    let sources: Vec<Source> = sources.into_iter().map(|(path, name)| Source { path: path_of(path), name }).collect();
    let options = Options {
        prior: prior.map(path_of),
        next: next.map(path_of),
        previous: previous.as_ref().map(page_from).transpose()?,
        clean_before_ns,
        clean_device,
        selection: selection.map(|selection| selection.get().value.clone()).unwrap_or_default(),
        keep_pages,
        dry_run,
    };
    let engine = &space.get().engine;
    let mut host = PythonHost { grant, progress, owner_name, origin: ask.map(PythonOrigin) };
    py.detach(|| engine_ingest::ingest(engine, &sources, &options, &mut host))
        .map(|value| Ingested { value })
        .map_err(|error| raised(py, error))
}

/// See `_kernel.pyi`.
#[pyfunction]
#[pyo3(signature = (space, fd, *, name, mode, mtime_ns, dry_run, grant, progress, owner_name, ask = None))]
pub fn ingest_stream(
    py: Python<'_>,
    space: Bound<'_, Space>,
    fd: i32,
    name: Vec<u8>,
    mode: u32,
    mtime_ns: i64,
    dry_run: bool,
    grant: Py<PyAny>,
    progress: Py<PyAny>,
    owner_name: Py<PyAny>,
    ask: Option<Py<PyAny>>,
) -> PyResult<Ingested> {
    let engine = &space.get().engine;
    let mut host = PythonHost { grant, progress, owner_name, origin: ask.map(PythonOrigin) };
    let stream: BorrowedFd<'_> = crate::lent::descriptor(fd)?;
    py.detach(|| engine_ingest::ingest_stream(engine, stream, &name, mode, mtime_ns, dry_run, &mut host))
        .map(|value| Ingested { value })
        .map_err(|error| raised(py, error))
}

/// Python, which is told how far a checkout is.
struct PythonProgress {
    progress: Py<PyAny>,
    report: Py<PyAny>,
    owner_number: Py<PyAny>,
}

impl OnProgress for PythonProgress {
    fn progress(&mut self, progress: &engine_checkout::Progress) -> Result<()> {
        Python::attach(|py| self.progress.bind(py).call1((progress.entries, progress.written_bytes)).map(drop))
            .map_err(carried)
    }

    fn report(&mut self, batch: &[Change]) -> Result<()> {
        tell(&self.report, batch)
    }

    fn owner_number(&mut self, owner: OwnerName<'_>) -> Result<Option<u32>> {
        let (kind, name) = match owner {
            OwnerName::User(name) => ("user", name),
            OwnerName::Group(name) => ("group", name),
        };
        Python::attach(|py| self.owner_number.bind(py).call1((kind, PyBytes::new(py, name)))?.extract())
            .map_err(carried)
    }
}

/// Tells Python what was done to some names.
fn tell(report: &Py<PyAny>, batch: &[Change]) -> Result<()> {
    let word = |action| match action {
        Action::Created => "created",
        Action::Replaced => "replaced",
        Action::Metadata => "metadata",
        Action::Deleted => "deleted",
    };
    Python::attach(|py| {
        let row = |change: &Change| {
            let letters = letters(change.action, change.kind, change.differs);
            (PyBytes::new(py, &change.path), word(change.action), kind_name(change.kind), change.size, letters)
        };
        report.bind(py).call1((batch.iter().map(row).collect::<Vec<_>>(),)).map(drop)
    })
    .map_err(carried)
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Checkout {
    value: Report,
}

#[pymethods]
impl Checkout {
    #[getter]
    fn growth_bytes(&self) -> Option<i64> {
        self.value.growth_bytes
    }

    #[getter]
    fn created(&self) -> u64 {
        self.value.created
    }

    #[getter]
    fn replaced(&self) -> u64 {
        self.value.replaced
    }

    #[getter]
    fn metadata(&self) -> u64 {
        self.value.metadata
    }

    #[getter]
    fn deleted(&self) -> u64 {
        self.value.deleted
    }

    #[getter]
    fn not_deleted(&self) -> u64 {
        self.value.not_deleted
    }

    #[getter]
    fn unchanged(&self) -> u64 {
        self.value.unchanged
    }

    #[getter]
    fn written_bytes(&self) -> u64 {
        self.value.written_bytes
    }

    #[getter]
    fn owners<'py>(&self, py: Python<'py>) -> (u64, Vec<Bound<'py, PyBytes>>) {
        missed(py, &self.value.owners)
    }

    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> (u64, Vec<Bound<'py, PyBytes>>) {
        missed(py, &self.value.devices)
    }

    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> (u64, Vec<Bound<'py, PyBytes>>) {
        missed(py, &self.value.attributes)
    }

    #[getter]
    fn left_ns(&self) -> Option<i64> {
        self.value.left_ns
    }
}

fn missed<'py>(py: Python<'py>, missed: &Missed) -> (u64, Vec<Bound<'py, PyBytes>>) {
    (missed.count, missed.first.iter().map(|path| PyBytes::new(py, path)).collect())
}

/// `(address, length, digest)`.
type PageArgument = (u64, u32, Vec<u8>);

/// A directory's page, a whole directory, or entries to be written by themselves.
#[derive(FromPyObject)]
pub enum RootArgument<'py> {
    /// `(address, length, digest)`.
    Page(PageArgument),
    /// A directory, whose own mode, owner and time the target gets.
    Whole(Bound<'py, Entry>),
    /// Files pulled by path.
    Entries(Vec<Bound<'py, Entry>>),
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Unverified {
    engine: unverified::Unverified,
}

#[pymethods]
impl Unverified {
    #[new]
    fn new(py: Python<'_>, directory: Vec<u8>, volume_id: &[u8]) -> PyResult<Self> {
        let volume_id = exactly("a volume id", volume_id)?;
        let engine = py.detach(|| unverified::Unverified::open(&path_of(directory), volume_id));
        engine.map(|engine| Unverified { engine }).map_err(|error| raised(py, error))
    }

    fn journal<'py>(&self, py: Python<'py>, bytes_max: u32) -> Vec<Bound<'py, PyBytes>> {
        let found = py.detach(|| self.engine.journal(bytes_max));
        found.into_iter().map(|entry| PyBytes::new(py, &entry)).collect()
    }

    #[getter]
    fn lost(&self) -> (u64, u64) {
        self.engine.lost()
    }

    #[pyo3(signature = (root, target, *, progress, report))]
    fn checkout(
        &self,
        py: Python<'_>,
        root: &[u8],
        target: Vec<u8>,
        progress: Py<PyAny>,
        report: Py<PyAny>,
    ) -> PyResult<Checkout> {
        let (source, target) = (&self.engine, path_of(target));
        // By number: nobody is asked for names.
        let mut on_progress = PythonProgress { progress, report, owner_number: py.None() };
        let done = py.detach(|| {
            let root = decode_root(root)?;
            let root = match root.page() {
                Some(page) => {
                    source.check_tree(&page)?;
                    Root::Directory(page)
                }
                None => Root::Entries(vec![root]),
            };
            let owners = Owners { restore: false, numeric: true, user: None, group: None };
            let options = engine_checkout::Options { delete: false, dry_run: false, owners, care: Care::NONE };
            engine_checkout::checkout_from(source, &root, None, &target, &options, &mut on_progress)
        });
        done.map(|value| Checkout { value }).map_err(|error| raised(py, error))
    }
}

/// See `_kernel.pyi`.
#[pyfunction]
#[pyo3(signature = (
    space, root, target, *, base, delete, dry_run, owner, numeric, user, group, progress, report, owner_number,
    exclude = None, backup = None, delete_max = None, checksum = false
))]
pub fn checkout(
    py: Python<'_>,
    space: Bound<'_, Space>,
    root: RootArgument<'_>,
    target: Vec<u8>,
    base: Option<(PageArgument, i64, String)>,
    delete: bool,
    dry_run: bool,
    owner: bool,
    numeric: bool,
    user: Option<u32>,
    group: Option<u32>,
    progress: Py<PyAny>,
    report: Py<PyAny>,
    owner_number: Py<PyAny>,
    exclude: Option<Bound<'_, Patterns>>,
    backup: Option<Vec<u8>>,
    delete_max: Option<u64>,
    checksum: bool,
) -> PyResult<Checkout> {
    let root = match root {
        RootArgument::Page(page) => Root::Directory(page_from(&page)?),
        RootArgument::Whole(entry) => Root::Whole(entry.get().value.clone()),
        RootArgument::Entries(entries) => {
            Root::Entries(entries.iter().map(|entry| entry.get().value.clone()).collect())
        }
    };
    let target = path_of(target);
    let base = base.map(before_from).transpose()?;
    let owners = Owners { restore: owner, numeric, user, group };
    let exclude = exclude.map(|patterns| patterns.get().value.clone());
    let care = Care { exclude, backup: backup.map(path_of), delete_max, checksum };
    let options = engine_checkout::Options { delete, dry_run, owners, care };
    let engine = &space.get().engine;
    let mut on_progress = PythonProgress { progress, report, owner_number };
    let done: std::result::Result<Report, Error> = py.detach(|| {
        engine_checkout::checkout_from(&**engine, &root, base.as_ref(), &target, &options, &mut on_progress)
    });
    done.map(|value| Checkout { value }).map_err(|error| raised(py, error))
}

fn before_from((page, left_ns, how): (PageArgument, i64, String)) -> PyResult<Before> {
    let how = match how.as_str() {
        "written" => How::Written,
        "alone" => How::Alone,
        "read" => How::Read,
        other => return Err(PyValueError::new_err(format!("a target cannot be {other:?}"))),
    };
    Ok(Before { page: page_from(&page)?, left_ns, how })
}

/// See `_kernel.pyi`.
#[pyfunction]
pub fn free_bytes(py: Python<'_>, path: Vec<u8>) -> PyResult<Option<u64>> {
    py.detach(|| engine_checkout::room::free_bytes(&path_of(path))).map_err(|error| raised(py, error))
}
