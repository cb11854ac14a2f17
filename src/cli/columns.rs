//! Columns as people read them. Pure: nothing in them steers a terminal.

use comfy_table::{Table, presets};

/// Text in columns under a header.
pub(super) fn table<R: AsRef<[String]>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.as_ref().iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without anything that ends a line or steers a terminal: names come from requests.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers =
            c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if steers {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_nothing_steers_the_terminal() {
        let rows = [
            ["cloud:6443".to_owned(), "offline".to_owned()],
            ["a\u{1b}[31m".to_owned(), "online".to_owned()],
        ];
        let text = table(&["SERVER", "STATE"], rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVER       STATE",
                "cloud:6443   offline",
                "a\\u{1b}[31m  online"
            ]
        );
    }
}
