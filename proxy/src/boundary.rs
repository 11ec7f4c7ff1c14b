//! Follows what passes through just far enough to know where one message ends, so that a last word can be put behind a
//! whole one.
//!
//! Nothing is kept or checked: who sends nonsense gets it passed on as it is, and no last word.
//!
//! Specification: RFC 6455 sections 5.2 and 5.5.1 (WebSocket frames, Close), gRPC over HTTP/2 "Length-Prefixed-Message".

/// Longest reason of a Close frame: a control frame carries 125 bytes, two of them the code (RFC 6455 section 5.5).
const MAX_REASON: usize = 123;
const OPCODE_CLOSE: u8 = 8;
const MASKED: u8 = 0x80;

/// The frames of one direction of a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The head of the frame that has begun.
    head: [u8; 14],
    head_length: usize,
    /// Bytes of its payload that are still to come.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// Looks at bytes that have been passed on.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let seen = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= seen as u64;
                bytes = bytes.get(seen..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.head_length) {
                *place = first;
            }
            self.head_length += 1;
            bytes = rest;
            if let Some(payload) = self.payload_length() {
                self.closed |= self.head.first().is_some_and(|first| first & 0xf == OPCODE_CLOSE);
                self.payload = payload;
                self.head_length = 0;
            }
        }
    }

    /// The length of the payload, once the head is whole.
    fn payload_length(&self) -> Option<u64> {
        let head = self.head.get(..self.head_length)?;
        let second = head.get(1)?;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let (extended, length) = match second & !MASKED {
            126 => (2, head.get(2..4)?),
            127 => (8, head.get(2..10)?),
            _ => (0, std::slice::from_ref(second)),
        };
        let length = length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = if extended == 0 { length & u64::from(!MASKED) } else { length };
        (head.len() == 2 + extended + mask).then_some(length)
    }

    /// Whether a frame of ours can follow: the last one is whole, and was no Close.
    pub(crate) fn can_follow(&self) -> bool {
        self.payload == 0 && self.head_length == 0 && !self.closed
    }
}

/// A Close frame with the code for a policy that does not allow it (RFC 6455 section 7.4.1); from a client it is masked.
pub(crate) fn close_frame(reason: &str, masked: bool) -> Vec<u8> {
    const POLICY_VIOLATION: u16 = 1008;
    const FIN: u8 = 0x80;
    let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
    let mut payload = POLICY_VIOLATION.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    // At most 125, so one byte says it.
    let length = u8::try_from(payload.len()).unwrap_or(0);
    let mut frame = vec![FIN | OPCODE_CLOSE, if masked { MASKED | length } else { length }];
    if masked {
        let key = fastrand::u32(..).to_be_bytes();
        frame.extend_from_slice(&key);
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
    }
    frame.extend_from_slice(&payload);
    frame
}

/// The messages of a gRPC stream.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    prefix: [u8; 4],
    prefix_length: usize,
    left: u64,
}

impl Messages {
    /// Looks at bytes that have been passed on.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let seen = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= seen as u64;
                bytes = bytes.get(seen..).unwrap_or_default();
                continue;
            }
            // A flag for compression, then the length.
            if let Some(place) =
                self.prefix_length.checked_sub(1).and_then(|index| self.prefix.get_mut(index))
            {
                *place = first;
            }
            self.prefix_length += 1;
            if self.prefix_length == 5 {
                self.left = u64::from(u32::from_be_bytes(self.prefix));
                self.prefix_length = 0;
            }
            bytes = rest;
        }
    }

    /// Whether the last message is whole, so that trailers can follow.
    pub(crate) fn can_follow(&self) -> bool {
        self.left == 0 && self.prefix_length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a server or client, with a payload of this length.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0xff);
        frame
    }

    #[test]
    fn the_end_of_a_frame_is_known_however_the_bytes_come() {
        for masked in [false, true] {
            let lengths = [0, 1, 125, 126, 65_535, 65_536, 7];
            let all: Vec<Vec<u8>> = lengths.map(|length| frame(0x82, length, masked)).to_vec();
            for size in [1, 2, 3, 1000, 1 << 20] {
                let mut frames = Frames::default();
                let ends: Vec<usize> = all
                    .iter()
                    .scan(0, |end, frame| {
                        *end += frame.len();
                        Some(*end)
                    })
                    .collect();
                let mut seen = 0;
                for bytes in all.concat().chunks(size) {
                    frames.see(bytes);
                    seen += bytes.len();
                    assert_eq!(frames.can_follow(), ends.contains(&seen), "{size} {masked} {seen}");
                }
            }
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let mut frames = Frames::default();
        frames.see(&close_frame("the token has expired", false));
        assert!(!frames.can_follow());
        let long = close_frame(&"é".repeat(100), false);
        assert_eq!((long.len(), long[1]), (2 + 124, 124), "cut between characters");
    }

    #[test]
    fn a_masked_close_frame_says_the_same() {
        let frame = close_frame("gone", true);
        let (head, payload) = frame.split_at(6);
        let plain: Vec<u8> =
            payload.iter().zip(head[2..].iter().cycle()).map(|(b, k)| b ^ k).collect();
        assert_eq!((head[0], head[1]), (0x88, 0x80 | 6));
        assert_eq!(plain, b"\x03\xf0gone");
    }

    #[test]
    fn the_end_of_a_message_is_known_however_the_bytes_come() {
        let message = |length: usize| {
            let mut message = vec![0];
            message.extend_from_slice(&(length as u32).to_be_bytes());
            message.resize(5 + length, 7);
            message
        };
        let all = [message(3), message(0), message(70_000)].concat();
        let ends = [8, 13, 70_018];
        for size in [1, 4, 5, 64_000] {
            let (mut messages, mut seen) = (Messages::default(), 0);
            for bytes in all.chunks(size) {
                messages.see(bytes);
                seen += bytes.len();
                assert_eq!(messages.can_follow(), ends.contains(&seen), "{size} {seen}");
            }
        }
    }
}
