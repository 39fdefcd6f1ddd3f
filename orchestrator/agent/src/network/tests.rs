//! Tables of objects and snapshots (`snapshots`); a node against a fake API and a fake kernel (`updates`), and against the
//! machine's own kernel (`real`).

mod fakes;
mod real;
mod snapshots;
mod updates;
