//! TensorBoard's event file, so that a run can be watched with the tool that people have open already.
//!
//! A TFRecord stream of `Event` messages: `length (u64), masked crc32c(length), message, masked crc32c(message)`, with the few
//! protobuf fields that scalars need written by hand. Source: tensorflow/core/util/event.proto and summary.proto.

/// One record with the scalars of a step; `seconds` is the wall time since the epoch.
pub fn scalars(seconds: f64, step: u32, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        bytes_field(&mut one, 1, tag.as_bytes()); // Summary.Value.tag
        one.push(2 << 3 | 5); // Summary.Value.simple_value, 32 bits
        one.extend((*value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &one); // Summary.value
    }
    let mut event = event_at(seconds);
    event.push(2 << 3); // Event.step
    varint(&mut event, u64::from(step));
    bytes_field(&mut event, 5, &summary); // Event.summary
    record(&event)
}

/// The record that every event file begins with.
pub fn header(seconds: f64) -> Vec<u8> {
    let mut event = event_at(seconds);
    bytes_field(&mut event, 3, b"brain.Event:2"); // Event.file_version
    record(&event)
}

fn event_at(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1]; // Event.wall_time, 64 bits
    event.extend(seconds.to_le_bytes());
    event
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(message);
    out.extend(masked_crc(message).to_le_bytes());
    out
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes a minute need no table.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| c >> 1 ^ if c & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_and_framing_follow_the_published_check_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let record = scalars(1.5, 300, &[("train/loss".into(), 0.25)]);
        let length = u64::from_le_bytes(record[..8].try_into().unwrap()) as usize;
        assert_eq!(record.len(), 8 + 4 + length + 4);
        let message = &record[12..12 + length];
        assert_eq!(message[9..12], [2 << 3, 0xac, 0x02], "step 300 as a varint");
        assert!(message.windows(10).any(|w| w == b"train/loss"));
    }
}
