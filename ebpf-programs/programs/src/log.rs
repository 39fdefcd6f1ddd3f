//! A line for each packet that a program decided, through aya-log, when built with the feature `log`.
//!
//! Without the feature nothing is left of it. With it every program asks another ring buffer for each packet: it is for
//! looking at a few packets, not for measuring.

use abi::Hook;
use aya_ebpf::programs::TcContext;
#[cfg(feature = "log")]
use datapath::Kind;
use datapath::Verdict;

/// Says what was decided.
#[cfg(feature = "log")]
#[inline(always)]
pub fn decided(ctx: &TcContext, hook: Hook, verdict: Verdict) {
    let (hook, length) = (hook as u32, ctx.len());
    if verdict.is(Kind::Drop) || verdict.is(Kind::Answer) {
        let word = verdict.argument();
        aya_log_ebpf::warn!(
            ctx,
            "hook {}: {} bytes dropped: reason {}, source {}, line {}",
            hook,
            length,
            word >> 24,
            word >> 16 & 0xff,
            word & 0xffff
        );
    } else {
        aya_log_ebpf::debug!(
            ctx,
            "hook {}: {} bytes: verdict {} to {}",
            hook,
            length,
            verdict.kind(),
            verdict.argument()
        );
    }
}

/// Says nothing.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub fn decided(_: &TcContext, _: Hook, _: Verdict) {}
