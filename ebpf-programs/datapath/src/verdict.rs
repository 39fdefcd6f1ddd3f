//! How a decision is handed back: one register each.

use abi::DropCode;

/// A step that may drop the packet; what it found is in the [`Flow`](crate::Flow). A wider `Result` by value would be
/// built on the stack, where the verifier sees it half-initialised.
pub type Step = Result<(), DropCode>;

/// What happens to a packet: kind and argument in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(u64);

/// The kinds of [`Verdict`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// The host's stack goes on with it.
    Pass = 0,
    /// The host's stack is its destination.
    Host = 1,
    /// Into the pod behind the device that is the argument.
    Pod = 2,
    /// Through the tunnel to the node in `NODES` that is the argument.
    Tunnel = 3,
    /// Out by the host's routes, past its stack.
    Route = 4,
    /// It was made into an answer: back by the device it came from. The argument is a [`DropCode`].
    Answer = 5,
    /// Dropped; the argument is a [`DropCode`].
    Drop = 6,
    /// Not decided: the packet begins a flow. Never leaves the datapath.
    Begin = 7,
    /// Not decided: an ICMP error. Never leaves the datapath.
    Relate = 8,
}

impl Verdict {
    /// A verdict.
    #[inline(always)]
    pub const fn new(kind: Kind, argument: u32) -> Self {
        Verdict((kind as u64) << 32 | argument as u64)
    }

    /// A drop.
    #[inline(always)]
    pub const fn drop(code: DropCode) -> Self {
        Verdict::new(Kind::Drop, code.word())
    }

    /// The kind's number, for the program to compare: an enum read from a register would need a check.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The argument.
    #[inline(always)]
    pub const fn argument(self) -> u32 {
        self.0 as u32
    }

    /// Whether it is of this kind.
    #[inline(always)]
    pub const fn is(self, kind: Kind) -> bool {
        self.kind() == kind as u32
    }

    /// Why it was dropped, if it was.
    #[inline(always)]
    pub const fn dropped(self) -> Option<DropCode> {
        if self.is(Kind::Drop) { DropCode::from_word(self.argument()) } else { None }
    }

    /// The word, for a function that is verified on its own.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// From such a function.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Verdict(word)
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const NAMES: [&str; 9] =
            ["Pass", "Host", "Pod", "Tunnel", "Route", "Answer", "Drop", "Begin", "Relate"];
        match self.dropped() {
            Some(code) => write!(f, "Drop({code:?})"),
            None => write!(f, "{}({})", NAMES.get(self.kind() as usize).unwrap_or(&"?"), self.argument()),
        }
    }
}

/// The code of a drop at this line.
macro_rules! drop_code {
    ($reason:ident) => {
        const { abi::DropCode::new(abi::Reason::$reason, abi::source_id(file!()), line!()) }
    };
}

/// Leaves a [`Step`] with a drop at this line.
macro_rules! refuse {
    ($reason:ident) => {
        return Err($crate::verdict::drop_code!($reason))
    };
}

/// The value of an `Option`, or a drop at this line.
macro_rules! need {
    ($option:expr, $reason:ident) => {
        match $option {
            Some(value) => value,
            None => $crate::verdict::refuse!($reason),
        }
    };
}

pub(crate) use {drop_code, need, refuse};
