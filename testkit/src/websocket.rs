//! WebSocket, as much of it as a test needs: the handshake of both sides, frames, and closing (RFC 6455).

use std::io;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A text message.
pub const TEXT: u8 = 1;
/// The end of the conversation.
pub const CLOSE: u8 = 8;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a server answers to a key.
pub fn accept(key: &str) -> String {
    let all = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, all.as_bytes()))
}

/// One whole frame; those of a client are masked.
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(mask | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(mask | 126);
            frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = if masked { fastrand::u32(..).to_be_bytes() } else { [0; 4] };
    if masked {
        frame.extend_from_slice(&key);
    }
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Reads one whole frame: its opcode and its payload.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let opcode = stream.read_u8().await? & 0xf;
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        length => u64::from(length),
    };
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut key).await?;
    }
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await?;
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    Ok((opcode, payload))
}

/// The code and the reason of a Close frame.
pub fn close(payload: &[u8]) -> (u16, String) {
    let (code, reason) = payload.split_at(2);
    (u16::from_be_bytes(code.try_into().unwrap()), String::from_utf8(reason.to_vec()).unwrap())
}

/// Opens a WebSocket on a connection; `headers` are further lines of the request.
///
/// # Panics
/// When the other side does not switch.
pub async fn open(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    host: &str,
    headers: &str,
) {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains(&accept(KEY)), "{answer}");
}
