//! The datapath's stages as functions of their own.
//!
//! The verifier walks a global function once, whatever leads to it, and knows nothing about it but its arguments; they
//! find the flow in scratch. Called for new flows and rare events only: a call costs some nanoseconds.

use abi::DropCode;
use datapath::{Silent, Step};

use crate::tables::Maps;

/// What a stage returned: 0, or the word of a drop.
#[inline(always)]
pub fn done(word: u32) -> Step {
    match DropCode::from_word(word) {
        None => Ok(()),
        Some(code) => Err(code),
    }
}

#[inline(always)]
fn word(step: Step) -> u32 {
    match step {
        Ok(()) => 0,
        Err(code) => code.word(),
    }
}

/// See [`datapath::Tables::rule`]. Policies know classes, not addresses: one function for both families.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rule(policy: u32, class: u32, protocol: u32, port: u32) -> u64 {
    datapath::policy::rule::<datapath::V4, _>(&Maps, policy, class, protocol, port)
}

/// The stages of a family. Symbols are global, so each name is said.
macro_rules! stages {
    ($module:ident, $family:ident, $fragment:literal $serve:literal $establish:literal $reconsider:literal $ending:literal) => {
        pub mod $module {
            use super::*;
            use datapath::$family as Family;

            /// See [`datapath::Tables::fragment_ports`].
            #[unsafe(export_name = $fragment)]
            #[inline(never)]
            pub extern "C" fn fragment_ports() -> u32 {
                word(datapath::fragment::fragment::<Family, _>(&Maps))
            }

            /// See [`datapath::Tables::serve`].
            #[unsafe(export_name = $serve)]
            #[inline(never)]
            pub extern "C" fn serve(hook: u32) -> u32 {
                word(datapath::begin::serve::<Family, _, _>(&Maps, &mut Silent, hook as u8))
            }

            /// See [`datapath::Tables::establish`].
            #[unsafe(export_name = $establish)]
            #[inline(never)]
            pub extern "C" fn establish() -> u32 {
                word(datapath::establish::establish::<Family, _>(&Maps))
            }

            /// See [`datapath::Tables::reconsider`].
            #[unsafe(export_name = $reconsider)]
            #[inline(never)]
            pub extern "C" fn reconsider() -> u32 {
                word(datapath::conntrack::reconsider::<Family, _, _>(&Maps, &mut Silent))
            }

            /// See [`datapath::Tables::ending`].
            #[unsafe(export_name = $ending)]
            #[inline(never)]
            pub extern "C" fn ending() -> u32 {
                word(datapath::conntrack::ending::<Family, _>(&Maps))
            }
        }
    };
}

stages!(v4, V4, "fragment4" "serve4" "establish4" "reconsider4" "ending4");
stages!(v6, V6, "fragment6" "serve6" "establish6" "reconsider6" "ending6");
