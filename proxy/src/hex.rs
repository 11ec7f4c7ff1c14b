//! Lower-case hexadecimal without a String: this is done for every request.

/// Bytes as text in `out`, which has room for twice as many.
pub(crate) fn hex<'out>(bytes: &[u8], out: &'out mut [u8]) -> &'out str {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' - 10 + value };
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    std::str::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_what_it_is_elsewhere() {
        let bytes: [u8; 32] = std::array::from_fn(|at| (at * 8) as u8);
        assert_eq!(hex(&bytes, &mut [0; 64]), picket_certs::leaf::hex(&bytes));
    }
}
