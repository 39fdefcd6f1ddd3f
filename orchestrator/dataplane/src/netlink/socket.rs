//! One request, its answers, its acknowledgement.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Error, Result};

/// Make it; without `REPLACE` it must not be there yet.
pub(super) const CREATE: u16 = NLM_F_CREATE;
/// What is there already is replaced.
pub(super) const REPLACE: u16 = NLM_F_REPLACE;
/// Everything, not one.
pub(super) const DUMP: u16 = NLM_F_DUMP;

/// The size of one receive: the kernel never puts more into one message of a dump.
const RECEIVE_BYTES: usize = 32 << 10;

/// A netlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open()
            .map_err(|source| Error::Netlink { operation: "opening a netlink socket".into(), source })?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Sends one request and collects its answers until the kernel's acknowledgement.
    pub(super) fn request(&mut self, operation: &str, message: Message, flags: u16) -> Result<Vec<Message>> {
        self.exchange(message, flags).map_err(|source| Error::Netlink { operation: operation.into(), source })
    }

    fn exchange(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        let exclusive = if flags & CREATE != 0 && flags & REPLACE == 0 { NLM_F_EXCL } else { 0 };
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags | exclusive;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answers()
    }

    fn answers(&mut self) -> io::Result<Vec<Message>> {
        let mut answers = Vec::new();
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = &self.buffer[..];
            while rest.len() >= size_of::<u32>() * 4 {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[length.max(16)..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => return verdict(error.code.map(i32::from), answers),
                    _ => {}
                }
            }
        }
    }
}

fn verdict(code: Option<i32>, answers: Vec<Message>) -> io::Result<Vec<Message>> {
    match code {
        None => Ok(answers),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
    }
}
