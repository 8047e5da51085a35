//! `docs/words.md` says what the tables of words say. That the tables have what the code writes, `architecture.rs` checks.

use signalbox::model::words::words_page;

/// The page, beside the manifest.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/words.md");

#[test]
fn the_page_of_words_is_up_to_date() {
    let page = std::fs::read_to_string(PAGE).expect("docs/words.md is readable");
    assert!(page == words_page(), "docs/words.md is out of date: cargo test --test words_doc -- --ignored");
}

#[test]
#[ignore = "writes docs/words.md; run it after changing the tables"]
fn write_the_page_of_words() {
    std::fs::write(PAGE, words_page()).expect("docs/words.md is writable");
}
