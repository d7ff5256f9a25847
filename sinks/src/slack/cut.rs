//! What is longer than Slack takes is cut, and says so: half a message is better than none.

use serde_json::{Value, json};

/// Characters of text, unless more is asked for.
pub(super) const TEXT_MAX: usize = 4_000;

/// Blocks of a message.
const BLOCKS: usize = 50;
/// Characters of a text within blocks, but where one has less room.
const IN_BLOCK: usize = 3_000;
/// What has less room: a kind of block or element, and what of it.
const LESS_ROOM: [(&str, &str, usize); 3] = [("header", "text", 150), ("button", "text", 75), ("section", "fields", 2_000)];
/// Lists that have an end.
const LISTS: [(&str, &str, usize); 2] = [("section", "fields", 10), ("context", "elements", 10)];

/// Text of at most so many characters, and never half of what is escaped, or of a link.
pub(super) fn cut(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    // Where there is little room the mark alone must do.
    let note = if most >= 100 { format!("… (cut: it has {length} characters)") } else { "…".to_owned() };
    let room = most.saturating_sub(note.chars().count());
    let end = text.char_indices().nth(room).map_or(text.len(), |(at, _)| at);
    let mut kept = &text[..end];
    for (opens, closes) in [('&', ';'), ('<', '>')] {
        if let Some(open) = kept.rfind(opens).filter(|open| !kept[*open..].contains(closes))
            && text[open..].contains(closes)
        {
            kept = &kept[..open];
        }
    }
    format!("{kept}{note}")
}

/// Cuts what is too long or too many in blocks.
pub(super) fn cut_blocks(blocks: &mut Vec<Value>) {
    if blocks.len() > BLOCKS {
        let left_out = blocks.len() - (BLOCKS - 1);
        blocks.truncate(BLOCKS - 1);
        let note = format!("… (cut: {left_out} further blocks)");
        blocks.push(json!({"type": "context", "elements": [{"type": "plain_text", "text": note}]}));
    }
    blocks.iter_mut().for_each(|block| cut_texts(block, IN_BLOCK));
}

fn cut_texts(value: &mut Value, most: usize) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| cut_texts(item, most)),
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (name, value) in fields.iter_mut() {
                if let (Some((.., most)), Value::Array(items)) =
                    (LISTS.iter().find(|list| (list.0, list.1) == (&kind, name)), &mut *value)
                {
                    items.truncate(*most);
                }
                let most = LESS_ROOM.iter().find(|room| (room.0, room.1) == (&kind, name)).map_or(most, |room| room.2);
                match value {
                    Value::String(text) if name == "text" && matches!(&*kind, "mrkdwn" | "plain_text") => *text = cut(text, most),
                    Value::Object(_) | Value::Array(_) => cut_texts(value, most),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so_and_is_whole() {
        assert_eq!(cut("short", 100), "short");
        let long = cut(&"ä".repeat(5_000), 4_000);
        assert!(long.chars().count() == 4_000 && long.ends_with("ä… (cut: it has 5000 characters)"), "{long}");
        for (text, kept) in [("abc &amp; b", "abc "), ("see <https://x.example|it> there", "see "), ("1 & 2 are more", "1 & 2 a")]
        {
            assert_eq!(cut(text, 8), format!("{kept}…"), "{text}");
        }
    }

    #[test]
    fn blocks_are_as_many_and_as_long_as_slack_takes() {
        let section = |text: String| json!({"type": "section", "text": {"type": "mrkdwn", "text": text}});
        let mut blocks = vec![
            json!({"type": "header", "text": {"type": "plain_text", "text": "h".repeat(200)}}),
            section("s".repeat(4_000)),
            json!({"type": "section", "fields": vec![json!({"type": "mrkdwn", "text": "f".repeat(2_500)}); 12]}),
        ];
        blocks.extend((0..60).map(|n| section(n.to_string())));
        cut_blocks(&mut blocks);
        let length = |text: &Value| text["text"].as_str().unwrap().chars().count();
        assert_eq!((length(&blocks[0]["text"]), length(&blocks[1]["text"])), (150, 3_000));
        assert_eq!((blocks[2]["fields"].as_array().unwrap().len(), length(&blocks[2]["fields"][0])), (10, 2_000));
        assert_eq!((blocks.len(), &blocks[49]["elements"][0]["text"]), (50, &json!("… (cut: 14 further blocks)")));
    }
}
