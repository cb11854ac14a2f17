//! The grammar of label selectors, token by token as upstream's parser takes it.
//!
//! `in` and `notin` are words like any other except where an operator is due. Empty values are values:
//! `x in (,)` holds for `""`.

use std::collections::BTreeSet;

use super::{Requirement, Test};
use crate::view::selector::SelectorError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    Word(&'a str),
    End,
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    // Upstream's lexer takes NUL for the end of the text in some places: not worth following.
    if text.contains('\0') {
        return Err(SelectorError::Syntax);
    }
    let mut tokens = Tokens { rest: text };
    let mut requirements = Vec::new();
    if tokens.peek() == Token::End {
        return Ok(requirements);
    }
    loop {
        requirements.push(requirement(&mut tokens)?);
        match tokens.take() {
            Token::End => return Ok(requirements),
            Token::Comma => {}
            _ => return Err(SelectorError::Syntax),
        }
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let negated = tokens.peek() == Token::Not;
    if negated {
        tokens.take();
    }
    let Token::Word(key) = tokens.take() else {
        return Err(SelectorError::Syntax);
    };
    if !is_label_key(key) {
        return Err(SelectorError::Key);
    }
    let test = match (negated, tokens.peek()) {
        (true, _) => Test::DoesNotExist,
        (false, Token::End | Token::Comma) => Test::Exists,
        (false, operator) => {
            tokens.take();
            operand(operator, tokens)?
        }
    };
    let key = key.to_owned();
    Ok(Requirement { key, test })
}

fn operand(operator: Token<'_>, tokens: &mut Tokens<'_>) -> Result<Test, SelectorError> {
    Ok(match operator {
        Token::Equals => Test::Equals(value(tokens)?),
        Token::NotEquals => Test::NotEquals(value(tokens)?),
        Token::Greater => Test::GreaterThan(integer(tokens)?),
        Token::Less => Test::LessThan(integer(tokens)?),
        Token::Word("in") => Test::In(values(tokens)?),
        Token::Word("notin") => Test::NotIn(values(tokens)?),
        _ => return Err(SelectorError::Syntax),
    })
}

fn value(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    match tokens.peek() {
        Token::End | Token::Comma => Ok(String::new()),
        Token::Word(word) => {
            tokens.take();
            label_value(word)
        }
        _ => Err(SelectorError::Syntax),
    }
}

fn integer(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    let text = value(tokens)?;
    match text.parse::<i64>() {
        Ok(_) => Ok(text),
        Err(_) => Err(SelectorError::Value),
    }
}

/// `(a,b)`. A comma with nothing before or after it stands for the empty value there, as does `()`.
fn values(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, SelectorError> {
    if tokens.take() != Token::Open {
        return Err(SelectorError::Syntax);
    }
    let mut values = BTreeSet::new();
    loop {
        let word = match tokens.peek() {
            Token::Word(word) => {
                tokens.take();
                word
            }
            _ => "",
        };
        values.insert(label_value(word)?);
        match tokens.take() {
            Token::Comma => {}
            Token::Close => return Ok(values),
            _ => return Err(SelectorError::Syntax),
        }
    }
}

fn label_value(text: &str) -> Result<String, SelectorError> {
    if text.is_empty() || is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(SelectorError::Value)
    }
}

/// A qualified name: `[DNS subdomain/]name`.
fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name(text),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name(name),
    }
}

/// 1 to 63 of `[A-Za-z0-9_.-]`, an alphanumeric one at both ends.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && outer(text.bytes().next()) && outer(text.bytes().last())
}

fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> Token<'a> {
        self.split().0
    }

    fn take(&mut self) -> Token<'a> {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }

    fn split(&self) -> (Token<'a>, &'a str) {
        const SYMBOLS: [(&str, Token<'static>); 9] = [
            ("==", Token::Equals), // before its prefix
            ("=", Token::Equals),
            ("!=", Token::NotEquals),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let text = self.rest.trim_start_matches(is_space);
        if text.is_empty() {
            return (Token::End, text);
        }
        for (symbol, token) in SYMBOLS {
            if let Some(rest) = text.strip_prefix(symbol) {
                return (token, rest);
            }
        }
        let is_end = |c: char| is_space(c) || matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        let (word, rest) = text.split_at(text.find(is_end).unwrap_or(text.len()));
        (Token::Word(word), rest)
    }
}
