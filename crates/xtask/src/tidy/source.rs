//! One file as the rules see it: text, and for Rust its tokens, functions and test regions.
//!
//! Tokens rather than text, so that a rule neither trips over a comment or a string nor is fooled by a line break.
//! Must never report a style error itself, except that a file does not parse.

use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A file of the tree.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `None` for anything but Rust.
    pub(crate) rust: Option<Result<Rust, String>>,
}

/// What the parser says about a Rust file.
#[derive(Debug, Default)]
pub(crate) struct Rust {
    pub(crate) tokens: Vec<Token>,
    pub(crate) functions: Vec<Function>,
    /// Lines that are compiled for tests only.
    tests: Vec<RangeInclusive<usize>>,
}

/// An identifier, a delimiter, or punctuation with `::` as one token. Literals are left out: `""` stands for each.
/// Imports with a list stand at the end once more, one path each: `use a::{b, c::d}` is also `use a::b; use a::c::d;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From `fn` to the closing brace: attributes and documentation do not count.
    pub(crate) length: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Source {
        let rust = path.ends_with(".rs").then(|| Rust::parse(path, &text).map_err(|e| e.to_string()));
        Source { path: path.into(), text, rust }
    }

    /// The parsed file, if it is Rust and parses.
    pub(crate) fn rust(&self) -> Option<&Rust> {
        self.rust.as_ref()?.as_ref().ok()
    }

    /// Number of lines that are not compiled for tests only.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let tests: usize = match self.rust() {
            Some(rust) if !is_test_file(&self.path) => {
                rust.tests.iter().map(|r| r.end() + 1 - r.start()).sum()
            }
            _ => 0,
        };
        self.text.lines().count().saturating_sub(tests)
    }
}

impl Rust {
    fn parse(path: &str, text: &str) -> syn::Result<Rust> {
        let mut rust = Rust::default();
        flatten(text.parse()?, &mut rust.tokens);
        rust.visit_file(&syn::parse_file(text)?);
        if is_test_file(path) {
            rust.tests = vec![1..=usize::MAX];
        }
        Ok(rust)
    }

    /// True if the line is compiled for tests only.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&line))
    }

    /// Indices at which the tokens read like the pattern, a text with spaces between tokens.
    pub(crate) fn find(&self, pattern: &str) -> Vec<usize> {
        let pattern: Vec<&str> = pattern.split(' ').collect();
        let hit = |window: &[Token]| window.iter().zip(&pattern).all(|(token, text)| token.text == *text);
        let windows = self.tokens.windows(pattern.len());
        windows.enumerate().filter(|(_, window)| hit(window)).map(|(index, _)| index).collect()
    }
}

/// Integration tests, benches and fuzz targets of a crate: all of the file is test code.
fn is_test_file(path: &str) -> bool {
    ["/tests/", "/benches/", "/fuzz_targets/"].iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
}

impl<'ast> Visit<'ast> for Rust {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if attributes(item).iter().any(is_cfg_test) {
            self.tests.push(item.span().start().line..=item.span().end().line);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if has_list(&item.tree) {
            expand(&item.tree, &[], &mut self.tokens);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

impl Rust {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let length = block.brace_token.span.close().end().line + 1 - line;
        self.functions.push(Function { name: signature.ident.to_string(), line, length });
    }
}

/// Writes each path of an import as tokens.
fn expand(tree: &syn::UseTree, path: &[Token], into: &mut Vec<Token>) {
    let token = |text: &str, span: Span| Token { text: text.into(), line: span.start().line };
    let longer = |ident: &syn::Ident| {
        [path, &[token(&ident.to_string(), ident.span()), token("::", ident.span())]].concat()
    };
    match tree {
        syn::UseTree::Path(part) => expand(&part.tree, &longer(&part.ident), into),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| expand(tree, path, into)),
        syn::UseTree::Name(name) => into.extend(longer(&name.ident)),
        syn::UseTree::Rename(rename) => into.extend(longer(&rename.ident)),
        syn::UseTree::Glob(_) => into.extend_from_slice(path),
    }
}

/// True if an import has a list; one without stands among the tokens as it is.
fn has_list(tree: &syn::UseTree) -> bool {
    match tree {
        syn::UseTree::Path(part) => has_list(&part.tree),
        other => matches!(other, syn::UseTree::Group(_)),
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, ..))]` and `#[test]`.
fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let mut tokens = Vec::new();
            flatten(list.tokens.clone(), &mut tokens);
            tokens.iter().any(|token| token.text == "test") && tokens.iter().all(|token| token.text != "not")
        }
        _ => false,
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                into.push(Token { text: open.into(), line });
                flatten(group.stream(), into);
                into.push(Token { text: close.into(), line: group.span_close().start().line });
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && ends_with_colon(into, line) => {
                into.last_mut().expect("just looked at it").text.push(':');
            }
            TokenTree::Literal(_) => into.push(Token { text: "\"\"".into(), line }),
            other => into.push(Token { text: other.to_string(), line }),
        }
    }
}

/// The parser gives `::` as two tokens.
fn ends_with_colon(tokens: &[Token], line: usize) -> bool {
    tokens.last().is_some_and(|token| token.text == ":" && token.line == line)
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//! A file.\n\n/// Doc.\nfn f() {\n    a::b(\"x::y\");\n}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";

    #[test]
    fn sees_functions_tokens_and_tests() {
        let source = Source::new("crates/a/src/b.rs", TEXT.into());
        let rust = source.rust().expect("parses");
        assert_eq!(rust.functions[0], Function { name: "f".into(), line: 4, length: 3 });
        assert_eq!(rust.find("a :: b (").len(), 1, "code counts");
        assert!(rust.find("x :: y").is_empty(), "a string does not");
        assert!(rust.is_test(10) && !rust.is_test(5));
        assert_eq!(source.lines_without_tests(), 7);
    }

    #[test]
    fn all_of_an_integration_test_is_test_code() {
        let source = Source::new("crates/a/tests/b.rs", TEXT.into());
        assert!(source.rust().expect("parses").is_test(5));
        assert_eq!(source.lines_without_tests(), 11, "its lines still count");
    }
}
