// Text taken apart into words in which only what tells words apart is left: no case, no accents, no
// vowel signs. So the same text in NFC and NFD, or Arabic with and without its diacritics, gives
// the same words. For the local embedder; its vectors depend on every detail here, hence nothing of
// it may change without a new name for the model (core/local_embedder.hpp).
//
//   Latin     lower case; accented letters become their base letters; æ ae, œ oe, ß ss, þ th, ĳ ij
//   Greek     lower case, without accents and breathings; ς σ
//   Cyrillic  lower case, without accents: ё е, й и (as in NFD, where the mark is a character)
//   Arabic    without tatweel and diacritics; أ إ آ ٱ ا, ى ئ ي, ؤ و, ة ه, ک ك, ی ي; presentation
//   forms
//             become letters; Arabic-Indic digits, both sets, become ASCII digits
//   Hebrew    without points
//   Hangul    syllables become letters
//   Others    as they are
//
// A word is a run of letters and digits. An apostrophe ends one, as in l'école; a soft hyphen and
// what joins or directs text without being seen do not. Han and kana know no blanks: each run is
// one word.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace core {

struct FoldedText {
  std::vector<char32_t> letters;  // of all words, one after the other
  std::vector<std::size_t> ends;  // where each word ends in them

  bool empty() const { return ends.empty(); }
};

// Overwrites `out`. A text of blanks alone gives no words; one that has other characters but
// neither letter nor digit gives them, without blanks, as one word. Bytes that are not UTF-8 end a
// word.
void fold_text(std::string_view text, FoldedText& out);

}  // namespace core
