//! Tables of objects and snapshots (`snapshots`); a node against a fake API and a fake kernel (`updates`).

mod fakes;
mod snapshots;
mod updates;
