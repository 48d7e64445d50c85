//! What an entrypoint prints: foreign bytes of any length, made into few harmless lines.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Longest line, in characters; the rest of it is dropped.
const LINE: usize = 500;
/// Most lines that are shown as they come.
const SHOWN: usize = 1000;
/// Most lines that are kept for the case that it fails: the last ones, as they say why.
const KEPT: usize = 40;

/// Text without what could drive a terminal or break a line, and not too long.
pub(super) fn harmless(text: &str) -> String {
    let tame = |c: char| if c == '\t' { ' ' } else { c };
    text.chars()
        .map(tame)
        .filter(|c| !c.is_control() && !is_direction(*c))
        .take(LINE)
        .collect()
}

/// Marks that change the direction of the text around them.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The lines of an output that comes in pieces.
#[derive(Debug)]
pub(super) struct Output {
    /// Lines are shown as they come.
    show: bool,
    /// The beginning of a line whose end has not come.
    open: Vec<u8>,
    /// How many have been shown.
    shown: usize,
    /// The last lines that have not.
    tail: VecDeque<String>,
    /// How many more have not.
    dropped: usize,
}

impl Output {
    pub(super) fn new(show: bool) -> Self {
        Output {
            show,
            open: Vec::new(),
            shown: 0,
            tail: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Takes a piece in, and gives the lines to show now.
    pub(super) fn take(&mut self, piece: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in piece {
            if matches!(byte, b'\n' | b'\r') {
                lines.extend(self.end_line());
            } else if self.open.len() < 4 * LINE {
                self.open.push(*byte);
            }
        }
        lines
    }

    /// Ends the line that has no end, and gives it if it is to be shown.
    pub(super) fn end_line(&mut self) -> Option<String> {
        let line = harmless(&String::from_utf8_lossy(&std::mem::take(&mut self.open)));
        if line.trim().is_empty() {
            return None;
        }
        if self.show && self.shown < SHOWN {
            self.shown += 1;
            return Some(line);
        }
        self.tail.push_back(line);
        if self.tail.len() > KEPT {
            self.tail.pop_front();
            self.dropped += 1;
        }
        None
    }

    /// The last of the lines that were not shown.
    pub(super) fn rest(self) -> Vec<String> {
        let note = (self.dropped > 0).then(|| format!("({} lines are not shown)", self.dropped));
        note.into_iter().chain(self.tail).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(show: bool, pieces: &[&[u8]]) -> (Vec<String>, Vec<String>) {
        let mut output = Output::new(show);
        let mut shown: Vec<String> = pieces.iter().flat_map(|piece| output.take(piece)).collect();
        shown.extend(output.end_line());
        (shown, output.rest())
    }

    #[test]
    fn pieces_become_lines() {
        let pieces: &[&[u8]] = &[b"a b", b"c\n\n \nd\re", b""];
        let lines: Vec<String> = ["a bc", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(all(true, pieces), (lines.clone(), vec![]));
        assert_eq!(all(false, pieces), (vec![], lines));
        assert_eq!(all(true, &[]), (vec![], vec![]));
    }

    #[test]
    fn nothing_drives_a_terminal() {
        let evil: &[u8] = b"\x1b[31mred\x07\tx\x9b2J\x7f \xff\xe2\x80\xaeabc\xc2\x9b\n";
        assert_eq!(all(true, &[evil]).0, ["[31mred x\u{fffd}2J \u{fffd}abc"]);
    }

    #[test]
    fn it_is_bounded() {
        let long = all(true, &[&vec![b'x'; 1 << 20]]).0;
        assert_eq!((long.len(), long.first().map(String::len)), (1, Some(LINE)));
        let many = "line\n".repeat(SHOWN + 4000);
        let (shown, rest) = all(true, &[many.as_bytes(), b"why"]);
        assert_eq!((shown.len(), rest.len()), (SHOWN, KEPT + 1));
        assert_eq!(rest.last().map(String::as_str), Some("why"));
        assert_eq!(rest.first().map(String::as_str), Some("(3961 lines are not shown)"));
    }
}
