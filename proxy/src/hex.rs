//! Lower-case hexadecimal without a String: this is done for every request.

/// Writes bytes to `out`, which has room for twice as many digits.
pub(crate) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' - 10 + value };
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_what_it_is_elsewhere() {
        let bytes: [u8; 32] = std::array::from_fn(|at| (at * 8) as u8);
        let mut out = [0; 64];
        write_hex(&bytes, &mut out);
        assert_eq!(out.as_slice(), picket_certs::leaf::hex(&bytes).as_bytes());
    }
}
