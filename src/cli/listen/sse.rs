//! Server-sent events, taken apart (WHATWG HTML, "Server-sent events"): as much of it as our stream uses. Pure.

/// The longest event taken, bytes: an event's JSON is far shorter.
const MAX_BYTES: usize = 1 << 20;

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its id, empty if it has none.
    pub id: String,
    /// Its data, lines joined.
    pub data: String,
}

/// This is no stream of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is not one of events")]
pub(super) struct NotEvents;

/// What arrived and is not an event yet.
#[derive(Debug, Default)]
pub(super) struct Frames {
    unread: Vec<u8>,
    id: String,
    data: Vec<String>,
}

impl Frames {
    /// The events that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, NotEvents> {
        self.unread.extend_from_slice(bytes);
        let mut complete = Vec::new();
        let mut begins = 0;
        while let Some(length) = self.unread[begins..].iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&self.unread[begins..begins + length]).map_err(|_| NotEvents)?;
            let line = line.strip_suffix('\r').unwrap_or(line).to_owned();
            begins += length + 1;
            complete.extend(self.line(&line));
        }
        self.unread.drain(..begins);
        let held = self.unread.len() + self.data.iter().map(String::len).sum::<usize>();
        if held > MAX_BYTES { Err(NotEvents) } else { Ok(complete) }
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let id = std::mem::take(&mut self.id);
            return (!data.is_empty()).then(|| Frame { id, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.id),
            "data" => self.data.push(value.to_owned()),
            // Comments, which keep the stream alive, and `retry`: we have a rhythm of our own.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: &str, data: &str) -> Frame {
        Frame { id: id.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let stream = "retry: 1000\n: following\n\nid: evt_1\ndata: {\"a\":\"ü\"}\n\n: alive\n\nid: evt_2\r\ndata:{\r\ndata: }\r\n\r\n";
        let expected = [frame("evt_1", "{\"a\":\"ü\"}"), frame("evt_2", "{\n}")];
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let found: Vec<_> =
                stream.as_bytes().chunks(size).flat_map(|chunk| frames.push(chunk).expect("events")).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_its_end_is_not_one_yet() {
        let mut frames = Frames::default();
        assert_eq!(frames.push(b"id: evt_1\ndata: {}\n"), Ok(vec![]));
        assert_eq!(frames.push(b"\n"), Ok(vec![frame("evt_1", "{}")]));
        assert_eq!(frames.push(b"data: {}\n\n"), Ok(vec![frame("", "{}")]), "an id is for its own event");
    }

    #[test]
    fn what_is_no_text_or_never_ends_is_refused() {
        assert_eq!(Frames::default().push(b"data: \xff\n\n"), Err(NotEvents));
        assert_eq!(Frames::default().push(&vec![b'x'; MAX_BYTES + 1]), Err(NotEvents));
    }
}
