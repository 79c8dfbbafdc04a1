"""What is kept: what every text needs, and of the rest what this text needs most."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fulgurite.vocabulary import essential_tokens, select_tokens, shrink_tokenizer, token_counts
from fulgurite.vocabulary._backend import read_state
from fulgurite.vocabulary.kinds import read_pieces

Make = Callable[[str], PreTrainedTokenizerFast]


def bpe(pieces: list[str], merges: list[tuple[str, str]], **settings: bool) -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.BPE({piece: token for token, piece in enumerate(pieces)}, merges, unk_token="?", **settings)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def wordpiece(pieces: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(["[UNK]", *pieces])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def names(tokenizer: PreTrainedTokenizerFast, kept: torch.Tensor) -> set[str]:
    return set(tokenizer.convert_ids_to_tokens(kept.tolist()))


def test_as_many_as_asked_for_in_the_old_order(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> None:
    counts = token_counts(tokenizer, lines)
    least = sum(len(group) for group in essential_tokens(tokenizer).values())
    smaller: set[int] | None = None
    for size in (least, least + 1, len(tokenizer) - 1, len(tokenizer)):
        kept = select_tokens(tokenizer, size, counts)
        assert kept.dtype == torch.int64
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert len(kept) == size
        assert smaller is None or smaller <= set(kept.tolist())  # taken out one by one
        smaller = set(kept.tolist())


def test_essential_tokens_by_kind(tokenizer_of: Make) -> None:
    sizes = {
        kind: {name: len(group) for name, group in essential_tokens(tokenizer_of(kind)).items()}
        for kind in ("byte-level", "byte-fallback", "unigram-bytes")
    }
    # all bytes; U+2581, which stands for a space and whose bytes would not, is one more
    assert sizes["byte-level"] == {"special": 1, "fallback": 256, "unspellable": 0, "parts": 0}
    assert sizes["byte-fallback"] == {"special": 3, "fallback": 257, "unspellable": 0, "parts": 0}
    assert sizes["unigram-bytes"] == {"special": 3, "fallback": 257, "unspellable": 0, "parts": 0}
    pieces = names(tokenizer_of("wordpiece"), essential_tokens(tokenizer_of("wordpiece"))["fallback"])
    assert {"a", "##a"} <= pieces
    assert {len(piece.removeprefix("##")) for piece in pieces - {"#"}} == {1}
    ended = names(tokenizer_of("characters"), essential_tokens(tokenizer_of("characters"))["fallback"])
    assert {"a", "a</w>"} <= ended
    assert "\u2581" in names(tokenizer_of("unigram"), essential_tokens(tokenizer_of("unigram"))["fallback"])


def test_parts_are_kept_before_what_is_made_of_them(tokenizer_of: Make, lines: list[str]) -> None:
    for kind in ("byte-level", "byte-fallback", "characters"):
        tokenizer = tokenizer_of(kind)
        pieces = read_pieces(read_state(tokenizer))
        kept = set(select_tokens(tokenizer, len(tokenizer) - 60, token_counts(tokenizer, lines)).tolist())
        parts = {part for token in kept for part in pieces.needs(token)}
        assert len(parts) > 60  # most of what is kept is merged
        assert parts <= kept


def test_of_many_merges_the_one_that_is_made_counts() -> None:
    # "abc" could come of "ab" + "c" or of "a" + "bc", as where merges are read from a list of pieces;
    # with "bc" first in rank it always comes of the second
    pieces = ["?", "a", "b", "c", "bc", "ab", "abc"]
    tokenizer = bpe(pieces, [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")])
    kept = select_tokens(tokenizer, 6, token_counts(tokenizer, ["abc", "abc", "ab"]))
    assert names(tokenizer, kept) == {"?", "a", "b", "c", "bc", "abc"}
    shrunk, _ = shrink_tokenizer(tokenizer, kept)
    assert shrunk.tokenize("abc ab") == ["abc", "a", "b"]


def test_a_removed_token_leaves_its_count_to_its_parts() -> None:
    # "xy" ends no word of the text, but each "xyz" needs two tokens more if both go, and each "pq" one
    pieces = ["?", "x", "y", "z", "p", "q", "xy", "xyz", "pq"]
    tokenizer = bpe(pieces, [("x", "y"), ("xy", "z"), ("p", "q")])
    counts = token_counts(tokenizer, ["xyz"] * 3 + ["pq"] * 4)
    assert names(tokenizer, select_tokens(tokenizer, 8, counts)) - set("?xyzpq") == {"xy", "pq"}
    # then the 3 of "xy" stand against the 4 of "pq"
    assert names(tokenizer, select_tokens(tokenizer, 7, counts)) - set("?xyzpq") == {"pq"}


def test_the_cost_is_in_tokens_of_the_text() -> None:
    # 2 words of four tokens against 5 of two: 6 tokens more against 5
    tokenizer = wordpiece(["l", "##o", "##n", "##g", "u", "##p", "long", "up"])
    counts = token_counts(tokenizer, ["long"] * 2 + ["up"] * 5)
    assert "long" in names(tokenizer, select_tokens(tokenizer, 8, counts))
    counts = token_counts(tokenizer, ["long"] * 2 + ["up"] * 7)
    assert "up" in names(tokenizer, select_tokens(tokenizer, 8, counts))


def test_what_is_gone_makes_others_worth_more() -> None:
    tokenizer = wordpiece(["a", "##b", "##c", "ab", "abc", "d", "##a", "da"])
    counts = token_counts(tokenizer, ["abc"] * 3 + ["ab"] * 2 + ["da"] * 4)
    # costs: "ab" 2, "abc" 3 (spelt "ab" "##c"), "da" 4; without "ab", "abc" costs 6
    assert names(tokenizer, select_tokens(tokenizer, 8, counts)) >= {"abc", "da"}
    assert names(tokenizer, select_tokens(tokenizer, 7, counts)) >= {"abc"}


def test_unigram_spells_by_the_likeliest_pieces(tokenizer_of: Make, lines: list[str]) -> None:
    tokenizer = tokenizer_of("unigram")
    pieces = read_pieces(read_state(tokenizer))
    everything = set(tokenizer.get_vocab().values())
    checked = 0
    for token in list(pieces.vocabulary.values())[-200:]:
        kept = everything - {token}
        if pieces.needs(token) or token in pieces.fallback:
            continue
        without, old_ids = shrink_tokenizer(tokenizer, torch.tensor(sorted(kept)))
        text = tokenizer.convert_ids_to_tokens(token).replace("\u2581", " ")
        if text.startswith(" ") and text.strip():  # what starts a word is cut alone
            cut = without(text.strip(), add_special_tokens=False)["input_ids"]
            assert old_ids[cut].tolist() == pieces.spell(token, everything), text
            checked += 1
    assert checked > 20


def test_scores_decide_where_they_are_given() -> None:
    tokenizer = wordpiece(["a", "##b", "##c", "ab", "##bc", "abc"])
    scores = torch.tensor([0.0, 0, 0, 0, 3, 1, 2])
    assert names(tokenizer, select_tokens(tokenizer, 5, scores=scores)) - set("a") == {
        "[UNK]",
        "##b",
        "##c",
        "ab",
    }
    # 10 words "ab" that lose 3 in all matter less than one "abc" that loses 4
    counts = torch.tensor([0, 0, 0, 0, 10, 0, 1])
    scores = torch.tensor([0.0, 0, 0, 0, 3, 0, 4])
    assert "abc" in names(tokenizer, select_tokens(tokenizer, 5, counts, scores=scores))


def test_what_no_text_has_goes_first() -> None:
    tokenizer = bpe(["?", "a", "b", "ab", "ba"], [("a", "b")])  # nothing makes "ba"
    kept = select_tokens(tokenizer, 4, torch.tensor([0, 1, 1, 0, 0]))
    assert names(tokenizer, kept) == {"?", "a", "b", "ab"}


def test_what_nothing_else_spells_is_kept() -> None:
    tokenizer = wordpiece(["a", "##b", "ab", "caf\u00e9", "unused"])
    essential = essential_tokens(tokenizer)
    assert names(tokenizer, essential["unspellable"]) == {"caf\u00e9", "unused"}
    counts = token_counts(tokenizer, ["ab ab"])
    essential = essential_tokens(tokenizer, counts, min_count=1)
    assert names(tokenizer, torch.cat(list(essential.values()))) == {"[UNK]", "a", "##b"}


def test_rare_characters_are_given_up_when_asked() -> None:
    tokenizer = wordpiece(["a", "b", "##a", "##b", "ab", "q", "##q"])
    counts = token_counts(tokenizer, ["ab ab q", "aq"])
    # inside "ab" too: 3 times a, twice ##b, once q, once ##q, never b or ##a
    common = essential_tokens(tokenizer, counts, min_count=2)["fallback"]
    assert names(tokenizer, common) == {"a", "##b"}
    seen = essential_tokens(tokenizer, counts, min_count=1)["fallback"]
    assert names(tokenizer, seen) == {"a", "##b", "q", "##q"}
    kept = select_tokens(tokenizer, 5, counts, min_count=1)
    shrunk, _ = shrink_tokenizer(tokenizer, kept)
    assert [shrunk.decode(shrunk(text)["input_ids"]) for text in ("ab ab q", "aq", "b")] == [
        "ab ab q",
        "aq",
        "[UNK]",
    ]


def test_bytes_are_never_given_up(tokenizer_of: Make, lines: list[str]) -> None:
    for kind in ("byte-level", "byte-fallback", "unigram-bytes"):
        tokenizer = tokenizer_of(kind)
        counts = token_counts(tokenizer, lines)
        assert len(essential_tokens(tokenizer, counts, min_count=1000)["fallback"]) >= 256


def test_a_size_that_holds_no_text_says_what_it_would_lose() -> None:
    tokenizer = wordpiece(["a", "##b", "q", "ab"])
    message = (
        r"size must be at least 4 to encode every text: 1 special \('\[UNK\]'\), 3 fallback \('a', '##b', 'q'\); "
        r"got 2; with the least used gone, 3 of the text's 9 bytes would fall back to unknown; min_count gives up"
    )
    # 4 times a, thrice ##b, twice q: the two least go, q and then... of 9 bytes those of q (2) and none less
    counts = token_counts(tokenizer, ["ab ab ab a", "q q"])
    with pytest.raises(ValueError, match=message.replace("3 of", "5 of")):
        select_tokens(tokenizer, 2, counts)
    with pytest.raises(ValueError, match=r"size must be at least 4 .* got 3$"):
        select_tokens(tokenizer, 3, scores=torch.ones(5))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "needs counts or scores, got neither"),
        (torch.ones(3), r"counts must be \[5\] finite numbers from 0, one a token, got \[3\]"),
        (torch.tensor([0, 0, -1, 0, 0]), "from -1.0 to 0.0"),
        (torch.full((5,), float("nan")), "finite numbers"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(counts: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_tokens(wordpiece(["a", "##b", "q", "ab"]), 4, counts)


def test_a_size_or_limit_that_makes_no_sense_is_refused() -> None:
    tokenizer = wordpiece(["a", "##b", "q", "ab"])
    with pytest.raises(ValueError, match="size must be at most the tokenizer's 5 tokens, got 6"):
        select_tokens(tokenizer, 6, torch.ones(5))
    with pytest.raises(ValueError, match="min_count must be 0 or more, and 0 without counts, got 1"):
        select_tokens(tokenizer, 5, scores=torch.ones(5), min_count=1)
