//! Messages of the vhost-user protocol on a socket.
//!
//! QEMU's docs/interop/vhost-user.rst, "Message Specification": three 32-bit numbers (request, flags,
//! size of the payload), the payload, and files beside it; all in the computer's own byte order.

use crate::tlb::{Block, Translation};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::{
    MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE, VhostUserHeaderFlag, VhostUserMemory,
    VhostUserMemoryRegion, VhostUserMsgValidator,
};
use vm_memory::ByteValued;

const HEADER: usize = 12;
/// The protocol's version, in the flags.
const VERSION: u32 = 1;

/// A message.
pub struct Message {
    /// What is asked, or of a reply, what was asked.
    pub request: u32,
    flags: u32,
    pub payload: Vec<u8>,
    pub files: Vec<File>,
}

impl Message {
    /// Whether the sender wants to hear how it went.
    pub fn needs_reply(&self) -> bool {
        self.flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0
    }

    /// Whether it is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags & VhostUserHeaderFlag::REPLY.bits() != 0
    }

    /// The 64-bit word that the payload is.
    pub fn word(&self) -> io::Result<u64> {
        let bytes = self.payload.as_slice().try_into();
        bytes
            .map(u64::from_ne_bytes)
            .map_err(|_| malformed("a payload that is not one word"))
    }

    /// The regions of a memory table, each with its file.
    pub fn memory_table(self) -> io::Result<Vec<(VhostUserMemoryRegion, File)>> {
        let (head, mut rest) = self
            .payload
            .split_at_checked(size_of::<VhostUserMemory>())
            .ok_or_else(|| malformed("a memory table without a count"))?;
        let count = VhostUserMemory::from_slice(head).map_or(0, |table| table.num_regions) as usize;
        if count != self.files.len() {
            return Err(malformed("a memory table with as many files as regions"));
        }
        let mut regions = Vec::new();
        for file in self.files {
            let (bytes, behind) = rest
                .split_at_checked(size_of::<VhostUserMemoryRegion>())
                .ok_or_else(|| malformed("a memory table of its length"))?;
            let region = VhostUserMemoryRegion::from_slice(bytes)
                .filter(|region| region.is_valid())
                .ok_or_else(|| malformed("a region that ends"))?;
            regions.push((*region, file));
            rest = behind;
        }
        Ok(regions)
    }
}

/// The next message; `None` if the other end has closed the connection.
pub fn receive(mut socket: &UnixStream) -> io::Result<Option<Message>> {
    let mut header = [0; HEADER];
    let Some((begun, files)) = receive_with_files(socket, &mut header)? else {
        return Ok(None);
    };
    socket.read_exact(&mut header[begun..])?;
    let number = |index: usize| {
        let bytes = [0, 1, 2, 3].map(|byte| header[4 * index + byte]);
        u32::from_ne_bytes(bytes)
    };
    let size = number(2) as usize;
    if size > MAX_MSG_SIZE {
        return Err(malformed("a payload of 4 KiB at most"));
    }
    let mut payload = vec![0; size];
    socket.read_exact(&mut payload)?;
    Ok(Some(Message {
        request: number(0),
        flags: number(1),
        payload,
        files,
    }))
}

/// The first bytes of a message, at least one, with the files that come beside them.
fn receive_with_files(
    socket: &UnixStream,
    bytes: &mut [u8],
) -> io::Result<Option<(usize, Vec<File>)>> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(malformed("fewer files"));
    }
    let mut files = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights.map(File::from));
        }
    }
    Ok((received.bytes > 0).then_some((received.bytes, files)))
}

/// Sends a request that wants a reply.
pub fn ask(socket: &UnixStream, request: u32, payload: &[u8]) -> io::Result<()> {
    send(socket, request, VhostUserHeaderFlag::NEED_REPLY, payload)
}

/// Sends the reply to a request.
pub fn reply(socket: &UnixStream, request: u32, payload: &[u8]) -> io::Result<()> {
    send(socket, request, VhostUserHeaderFlag::REPLY, payload)
}

fn send(
    mut socket: &UnixStream,
    request: u32,
    flag: VhostUserHeaderFlag,
    payload: &[u8],
) -> io::Result<()> {
    let numbers = [request, flag.bits() | VERSION, payload.len() as u32];
    let mut message = numbers.map(u32::to_ne_bytes).concat();
    message.extend_from_slice(payload);
    socket.write_all(&message)
}

/// An IOTLB message (the same document, "An IOTLB message"; Linux's uapi `struct vhost_iotlb_msg`).
///
/// ```text
///  0      8      16     24           25     26       32
/// | iova | size | user | permission | type | padding |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IotlbMessage {
    /// The device has no translation for an access at `iova`; sent by it.
    Miss { iova: u64, write: bool },
    /// A translation.
    Update(Translation),
    /// The translations of a block are no longer valid.
    Invalidate(Block),
    /// A type that this device has no use for.
    Other(u8),
}

const IOTLB_MESSAGE: usize = 32;
const MISS: u8 = 1;
const UPDATE: u8 = 2;
const INVALIDATE: u8 = 3;
const READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;

impl IotlbMessage {
    /// The message that a payload is.
    pub fn decode(payload: &[u8]) -> io::Result<Self> {
        if payload.len() != IOTLB_MESSAGE {
            return Err(malformed("an IOTLB message of 32 bytes"));
        }
        let word = |index: usize| {
            let bytes = [0, 1, 2, 3, 4, 5, 6, 7].map(|byte| payload[8 * index + byte]);
            u64::from_ne_bytes(bytes)
        };
        let (iova, size, permission) = (word(0), word(1), payload[24]);
        Ok(match payload[25] {
            MISS => Self::Miss {
                iova,
                write: permission & WRITE != 0,
            },
            UPDATE => Self::Update(Translation {
                block: Block::new(iova, size),
                user: word(2),
                read: permission & READ != 0,
                write: permission & WRITE != 0,
            }),
            INVALIDATE => Self::Invalidate(Block::new(iova, size)),
            other => Self::Other(other),
        })
    }

    /// The payload of a miss.
    pub fn miss(iova: u64, write: bool) -> [u8; IOTLB_MESSAGE] {
        let mut payload = [0; IOTLB_MESSAGE];
        payload[..8].copy_from_slice(&iova.to_ne_bytes());
        payload[24] = if write { WRITE } else { READ };
        payload[25] = MISS;
        payload
    }
}

fn malformed(expected: &str) -> io::Error {
    let what = format!("QEMU sends what is not vhost-user: expected {expected}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes written down by hand from Linux's include/uapi/linux/vhost_types.h.
    #[test]
    fn iotlb_messages_have_the_layout_of_the_kernel_s_header() {
        let mut update = [0; IOTLB_MESSAGE];
        update[..8].copy_from_slice(&0x1_2345_6000_u64.to_ne_bytes());
        update[8..16].copy_from_slice(&0x1000_u64.to_ne_bytes());
        update[16..24].copy_from_slice(&0x7f00_0000_0000_u64.to_ne_bytes());
        update[24..26].copy_from_slice(&[3, 2]);
        let expected = Translation {
            block: Block::new(0x1_2345_6000, 0x1000),
            user: 0x7f00_0000_0000,
            read: true,
            write: true,
        };
        let decoded = IotlbMessage::decode(&update).expect("it is one");
        assert_eq!(decoded, IotlbMessage::Update(expected));
        update[25] = 3;
        let decoded = IotlbMessage::decode(&update).expect("it is one");
        assert_eq!(decoded, IotlbMessage::Invalidate(expected.block));
        update[25] = 9;
        let decoded = IotlbMessage::decode(&update).expect("it is one");
        assert_eq!(decoded, IotlbMessage::Other(9));
        assert!(IotlbMessage::decode(&update[..31]).is_err());
        let miss = IotlbMessage::miss(0xabc, true);
        assert_eq!((miss[24], miss[25]), (2, 1));
        assert_eq!(miss[..8], 0xabc_u64.to_ne_bytes());
    }

    #[test]
    fn a_message_may_come_in_pieces_and_be_too_long() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let writer = std::thread::spawn(move || {
            let mut there = &there;
            let message = [7_u32, 9, 8].map(u32::to_ne_bytes).concat();
            for piece in [&message[..3], &message[3..], &[1, 0, 0], &[0, 0, 0, 0, 0]] {
                there.write_all(piece).expect("sent");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let long = [7_u32, 9, 4097].map(u32::to_ne_bytes).concat();
            there.write_all(&long).expect("sent");
        });
        let message = receive(&here).expect("whole").expect("there is one");
        assert_eq!((message.request, message.word().ok()), (7, Some(1)));
        assert!(message.needs_reply() && !message.is_reply());
        assert!(receive(&here).is_err());
        writer.join().expect("written");
        assert!(receive(&here).expect("closed").is_none());
    }
}
