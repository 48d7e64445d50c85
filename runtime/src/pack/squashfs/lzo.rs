//! LZO1X as squashfs images of enroot have it (its default compressor): only the way back, in safe code. The stream is
//! described in the kernel's Documentation/staging/lzo.rst; the names here are that page's.
#![forbid(unsafe_code)]

/// What a stream can be wrong in; nothing more is needed by the caller, who knows the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Inflates `input` into `output`, which becomes at most `limit` bytes long.
pub fn decompress(input: &[u8], output: &mut Vec<u8>, limit: usize) -> Result<(), Corrupt> {
    output.clear();
    let mut stream = Stream { input, output, limit };
    let first = stream.peek()?;
    let mut state = 0;
    if first > 17 {
        stream.byte()?;
        let literals = usize::from(first) - 17;
        stream.literals(literals)?;
        state = literals.min(4);
    }
    while let Some(next) = stream.instruction(state)? {
        state = next;
    }
    Ok(())
}

struct Stream<'s> {
    input: &'s [u8],
    output: &'s mut Vec<u8>,
    limit: usize,
}

impl Stream<'_> {
    fn peek(&self) -> Result<u8, Corrupt> {
        self.input.first().copied().ok_or(Corrupt)
    }

    fn byte(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.input.split_first().ok_or(Corrupt)?;
        self.input = rest;
        Ok(*first)
    }

    fn word(&mut self) -> Result<usize, Corrupt> {
        Ok(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }

    /// A length whose field of `bits` bits is zero goes on: each zero byte stands for 255.
    fn length(&mut self, field: usize, bits: u32) -> Result<usize, Corrupt> {
        if field != 0 {
            return Ok(field);
        }
        let mut length = (1_usize << bits) - 1;
        loop {
            match self.byte()? {
                0 => length = length.saturating_add(255),
                last => return Ok(length.saturating_add(usize::from(last))),
            }
        }
    }

    fn room(&self, count: usize) -> Result<(), Corrupt> {
        if count > self.limit.saturating_sub(self.output.len()) {
            return Err(Corrupt);
        }
        Ok(())
    }

    fn literals(&mut self, count: usize) -> Result<(), Corrupt> {
        self.room(count)?;
        let (now, rest) = self.input.split_at_checked(count).ok_or(Corrupt)?;
        self.output.extend_from_slice(now);
        self.input = rest;
        Ok(())
    }

    /// Copies from what is already there; the copy may overlap itself.
    fn copy(&mut self, distance: usize, count: usize) -> Result<(), Corrupt> {
        self.room(count)?;
        let start = self.output.len().checked_sub(distance).ok_or(Corrupt)?;
        let end = start.saturating_add(count);
        if end <= self.output.len() {
            self.output.extend_from_within(start..end);
            return Ok(());
        }
        for at in start..end {
            let byte = *self.output.get(at).ok_or(Corrupt)?;
            self.output.push(byte);
        }
        Ok(())
    }

    /// One instruction; gives how many literals the one before it left (4 stands for a long run), or nothing at the end.
    fn instruction(&mut self, state: usize) -> Result<Option<usize>, Corrupt> {
        let code = usize::from(self.byte()?);
        let (distance, count, literals) = match code {
            0..=15 if state == 0 => {
                let run = self.length(code, 4)?.saturating_add(3);
                self.literals(run)?;
                return Ok(Some(4));
            }
            0..=15 if state == 4 => {
                let distance = 2049 + (usize::from(self.byte()?) << 2) + (code >> 2);
                (distance, 3, code & 3)
            }
            0..=15 => {
                let distance = 1 + (usize::from(self.byte()?) << 2) + (code >> 2);
                (distance, 2, code & 3)
            }
            16..=31 => {
                let count = self.length(code & 7, 3)?.saturating_add(2);
                let word = self.word()?;
                let distance = 16_384 + ((code & 8) << 11) + (word >> 2);
                if distance == 16_384 {
                    // The end; what follows would not belong to the stream.
                    return Ok(None);
                }
                (distance, count, word & 3)
            }
            32..=63 => {
                let count = self.length(code & 31, 5)?.saturating_add(2);
                let word = self.word()?;
                (1 + (word >> 2), count, word & 3)
            }
            64..=127 => {
                let distance = 1 + (usize::from(self.byte()?) << 3) + (code >> 2 & 7);
                (distance, 3 + (code >> 5 & 1), code & 3)
            }
            _ => {
                let distance = 1 + (usize::from(self.byte()?) << 3) + (code >> 2 & 7);
                (distance, 5 + (code >> 5 & 3), code & 3)
            }
        };
        self.copy(distance, count)?;
        self.literals(literals)?;
        Ok(Some(literals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(input: &[u8], limit: usize) -> Result<Vec<u8>, Corrupt> {
        let mut output = b"left over".to_vec();
        decompress(input, &mut output, limit).map(|()| output)
    }

    #[test]
    fn a_stream_of_literals_and_an_overlapping_copy() {
        // 20 - 17 literals "abc", then 6 bytes from distance 3 (code 32 + 4, word 2 << 2), then the end.
        let stream = [20, b'a', b'b', b'c', 32 + 4, 2 << 2, 0, 17, 0, 0];
        assert_eq!(back(&stream, 100).unwrap(), b"abcabcabc");
        assert_eq!(back(&stream, 8), Err(Corrupt), "more than the limit");
    }

    #[test]
    fn broken_streams_are_noticed() {
        let stream = [20, b'a', b'b', b'c', 32 + 4, 2 << 2, 0, 17, 0, 0];
        for end in 0..stream.len() {
            assert_eq!(back(&stream[..end], 100), Err(Corrupt), "cut at {end}");
        }
        assert_eq!(
            back(&[20, 1, 2, 3, 36, 3 << 2, 0, 17, 0, 0], 100),
            Err(Corrupt),
            "before the beginning"
        );
        assert_eq!(back(&[0; 4000], 1 << 20), Err(Corrupt));
    }
}
