//! Lists that are too long for one answer.

use serde::Serialize;

use super::error::ToolError;

/// How many bytes of JSON the items of one page may take. With the text beside it and all that is around it, an answer
/// then stays below 20,000 bytes.
const PAGE_BYTES: usize = 9_000;

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// How many items there are in all.
    pub(super) total: usize,
    /// Where the next page begins; none when this is the last.
    pub(super) next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The part of a list that begins where a cursor says, and as much of it as one answer may hold. Only what is in it is
    /// turned into items.
    pub(super) fn of<S>(list: &[S], cursor: Option<&str>, item: impl Fn(&S) -> T) -> Result<Self, ToolError> {
        let first = cursor.map_or(Ok(0), |cursor| cursor.parse::<usize>().map_err(|_| unknown_cursor(cursor)))?;
        let total = list.len();
        let mut bytes = 0;
        let rest = list.iter().skip(first);
        let items: Vec<T> = rest
            .map(item)
            .enumerate()
            .take_while(|(index, item)| {
                bytes += serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
                // One item always fits, so that every list comes to its end.
                bytes <= PAGE_BYTES || *index == 0
            })
            .map(|(_, item)| item)
            .collect();
        let end = first.saturating_add(items.len());
        let next_cursor = (end < total).then(|| end.to_string());
        Ok(Self { items, total, next_cursor })
    }

    /// Whether there is more after this page.
    pub(super) const fn truncated(&self) -> bool {
        self.next_cursor.is_some()
    }
}

fn unknown_cursor(cursor: &str) -> ToolError {
    ToolError::new("invalid_cursor", format!("{cursor:?} is no cursor"))
        .next("pass on next_cursor of the previous result as it is, or leave cursor out to begin anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_list() {
        let list: Vec<String> = (0..500).map(|number| format!("{number:0>100}")).collect();
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = Page::of(&list, cursor.as_deref(), Clone::clone).unwrap();
            assert!(serde_json::to_vec(&page.items).unwrap().len() <= PAGE_BYTES + 2);
            assert_eq!(page.total, 500);
            assert_eq!(page.truncated(), page.next_cursor.is_some());
            seen.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, list);
    }

    #[test]
    fn a_cursor_of_somebody_else_is_an_error_and_one_beyond_the_end_is_empty() {
        assert_eq!(Page::of(&[1], Some("x"), |&number| number).unwrap_err().code, "invalid_cursor");
        let page = Page::of(&[1], Some("18446744073709551615"), |&number| number).unwrap();
        assert_eq!((page.items, page.next_cursor), (vec![], None));
        assert_eq!(Page::of(&["x".repeat(PAGE_BYTES)], None, Clone::clone).unwrap().items.len(), 1);
    }
}
