#include "core/text_fold.hpp"

#include <array>
#include <string_view>

#include "core/utf8.hpp"

namespace core {
namespace {

// What a character is within words. Every other value is the letter that it folds to.
constexpr char32_t kSeparator = 0;
constexpr char32_t kIgnored = 1;

constexpr std::array<char32_t, 128> kAscii = [] {
  std::array<char32_t, 128> fold{};
  for (char32_t c = 0; c < 128; ++c) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool kept = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    fold[c] = upper ? c + 32 : kept ? c : kSeparator;
  }
  return fold;
}();

// The base letters of Unicode's canonical decompositions, and of letters with a stroke, which have
// none; a dot where a letter stays what it is.
constexpr std::string_view kLatin =  // U+00C0 … U+024F
    "aaaaaa.ceeeeiiiidnooooo.ouuuuy.saaaaaa.ceeeeiiiidnooooo.ouuuuy.y"
    "aaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiii..jjkkqllllll."
    ".llnnnnnn.nnoooooo..rrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzs"
    "b.........................l.....oo.............uu....zz........."
    ".............aaiioouuuuuuuuuu.aaaa..ggggkkoooo..j...gg..nnaaaaoo"
    "aaaaeeeeiiiioooorrrruuuusstt..hh......aaeeooooooooyy............"
    "................";
constexpr std::string_view kLatinAdditional =  // U+1E00 … U+1EFF
    "aabbbbbbccddddddddddeeeeeeeeeeffgghhhhhhhhhhiiiikkkkkkllllllllmm"
    "mmmmnnnnnnnnoooooooopppprrrrrrrrssssssssssttttttttuuuuuuuuuuvvvv"
    "wwwwwwwwwwxxxxyyzzzzzzhtwy.s..s.aaaaaaaaaaaaaaaaaaaaaaaaeeeeeeee"
    "eeeeeeeeiiiioooooooooooooooooooooooouuuuuuuuuuuuuuyyyyyyyy......";

// Greek letters as their distance from α, written a, b, c …
constexpr std::string_view kGreek =  // U+0370 … U+03CF
    "......................a.egi.o.uyiabcdefghijklmnopq.stuvwxyiuaegi"
    "uabcdefghijklmnopqsstuvwxyiuouy.";
constexpr std::string_view kGreekExtended =  // U+1F00 … U+1FFF
    "aaaaaaaaaaaaaaaaeeeeee..eeeeee..ggggggggggggggggiiiiiiiiiiiiiiii"
    "oooooo..oooooo..uuuuuuuu.u.u.u.uyyyyyyyyyyyyyyyyaaeeggiioouuyy.."
    "aaaaaaaaaaaaaaaaggggggggggggggggyyyyyyyyyyyyyyyyaaaaa.aaaaaaa.i."
    "..ggg.ggeeggg...iiii..iiiiii....uuuuqquuuuuuq.....yyy.yyooyyy...";

// The letters of U+FE80 … U+FEF4, Arabic presentation forms, in the order of their forms; the
// number of forms differs from letter to letter.
struct Forms {
  char32_t last;
  char32_t letter;
};
constexpr std::array<Forms, 35> kArabicForms{{
    {0xFE80, 0x0621}, {0xFE84, 0x0627}, {0xFE86, 0x0648}, {0xFE88, 0x0627}, {0xFE8C, 0x064A},
    {0xFE8E, 0x0627}, {0xFE92, 0x0628}, {0xFE94, 0x0647}, {0xFE98, 0x062A}, {0xFE9C, 0x062B},
    {0xFEA0, 0x062C}, {0xFEA4, 0x062D}, {0xFEA8, 0x062E}, {0xFEAA, 0x062F}, {0xFEAC, 0x0630},
    {0xFEAE, 0x0631}, {0xFEB0, 0x0632}, {0xFEB4, 0x0633}, {0xFEB8, 0x0634}, {0xFEBC, 0x0635},
    {0xFEC0, 0x0636}, {0xFEC4, 0x0637}, {0xFEC8, 0x0638}, {0xFECC, 0x0639}, {0xFED0, 0x063A},
    {0xFED4, 0x0641}, {0xFED8, 0x0642}, {0xFEDC, 0x0643}, {0xFEE0, 0x0644}, {0xFEE4, 0x0645},
    {0xFEE8, 0x0646}, {0xFEEC, 0x0647}, {0xFEEE, 0x0648}, {0xFEF0, 0x064A}, {0xFEF4, 0x064A},
}};

char32_t fold_latin(char32_t c, std::string_view table, char32_t first) {
  const char base = table[c - first];
  return base == '.' ? c : static_cast<char32_t>(base);
}

char32_t fold_greek(char32_t c, std::string_view table, char32_t first) {
  const char base = table[c - first];
  return base == '.' ? c : 0x3B1 + static_cast<char32_t>(base - 'a');
}

char32_t fold_cyrillic(char32_t c) {
  if (c < 0x410) {
    c += 0x50;
  } else if (c < 0x430) {
    c += 0x20;
  } else if ((c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF) || c >= 0x4D0) {
    c |= 1;
  } else if (c >= 0x4C1 && c <= 0x4CE && c % 2 == 1) {
    ++c;
  } else if (c >= 0x483 && c <= 0x489) {
    return kIgnored;
  }
  // Letters that carry a mark in NFC; upper case is gone by now.
  switch (c) {
    case 0x439:
    case 0x45D:
    case 0x4E3:
    case 0x4E5:
      return 0x438;
    case 0x450:
    case 0x451:
    case 0x4D7:
      return 0x435;
    case 0x453:
      return 0x433;
    case 0x457:
      return 0x456;
    case 0x45C:
      return 0x43A;
    case 0x45E:
    case 0x4EF:
    case 0x4F1:
    case 0x4F3:
      return 0x443;
    case 0x477:
      return 0x475;
    case 0x4C2:
    case 0x4DD:
      return 0x436;
    case 0x4D1:
    case 0x4D3:
      return 0x430;
    case 0x4DB:
      return 0x4D9;
    case 0x4DF:
      return 0x437;
    case 0x4E7:
      return 0x43E;
    case 0x4EB:
      return 0x4E9;
    case 0x4ED:
      return 0x44D;
    case 0x4F5:
      return 0x447;
    case 0x4F9:
      return 0x44B;
    default:
      return c;
  }
}

char32_t fold_arabic(char32_t c) {
  if (c == 0x640 || (c >= 0x610 && c <= 0x61A) || (c >= 0x64B && c <= 0x65F) || c == 0x670 ||
      (c >= 0x6D6 && c <= 0x6DC) || (c >= 0x6DF && c <= 0x6E4) || c == 0x6E7 || c == 0x6E8 ||
      (c >= 0x6EA && c <= 0x6ED) || c == 0x61C) {
    return kIgnored;
  }
  if (c < 0x620 || (c >= 0x66A && c <= 0x66D) || c == 0x6D4 || c == 0x6DD || c == 0x6DE ||
      c == 0x6E9) {
    return kSeparator;
  }
  if (c >= 0x660 && c <= 0x669) {
    return '0' + (c - 0x660);
  }
  if (c >= 0x6F0 && c <= 0x6F9) {
    return '0' + (c - 0x6F0);
  }
  switch (c) {
    case 0x622:  // آ
    case 0x623:  // أ
    case 0x625:  // إ
    case 0x671:  // ٱ
      return 0x627;
    case 0x624:  // ؤ
      return 0x648;
    case 0x626:  // ئ
    case 0x649:  // ى
    case 0x6CC:  // ی
      return 0x64A;
    case 0x629:  // ة
    case 0x6C1:  // ہ
    case 0x6C2:  // ۂ
      return 0x647;
    case 0x6A9:  // ک
      return 0x643;
    case 0x6C0:  // ۀ
      return 0x6D5;
    case 0x6D3:  // ۓ
      return 0x6D2;
    default:
      return c;
  }
}

// Beyond the scripts that have a table of their own.
char32_t fold_rest(char32_t c) {
  if (c < 0xC0) {
    return c == 0xB5 ? 0x3BC : c == 0xAD ? kIgnored : kSeparator;
  }
  if ((c >= 0x300 && c <= 0x36F) || (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
      (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF || (c >= 0xFE00 && c <= 0xFE0F) ||
      (c >= 0x20D0 && c <= 0x20FF) || (c >= 0x1AB0 && c <= 0x1AFF) ||
      (c >= 0x1DC0 && c <= 0x1DFF) || (c >= 0xFE20 && c <= 0xFE2F)) {
    return kIgnored;
  }
  if (c >= 0x590 && c <= 0x5CF) {  // Hebrew points, and the signs between words
    return c == 0x5BE || c == 0x5C0 || c == 0x5C3 || c == 0x5C6 ? kSeparator : kIgnored;
  }
  if (c >= 0xFF01 && c <= 0xFF5E) {  // full-width ASCII
    return kAscii[c - 0xFEE0];
  }
  if (c >= 0xFE80 && c <= 0xFEF4) {
    for (const Forms& forms : kArabicForms) {
      if (c <= forms.last) {
        return forms.letter;
      }
    }
  }
  const bool sign = (c >= 0x2000 && c <= 0x2BFF) || (c >= 0x2E00 && c <= 0x2E7F) ||
                    (c >= 0x3000 && c <= 0x3004) || (c >= 0x3008 && c <= 0x3020) || c == 0x3030 ||
                    c == 0x30FB || c == 0x37E || c == 0x387 || c == 0x5F3 || c == 0x5F4 ||
                    c == 0x55A || c == 0x589 || c == 0x964 || c == 0x965 || c == 0x10FB ||
                    (c >= 0xE000 && c <= 0xF8FF) || (c >= 0xFE10 && c <= 0xFE1F) ||
                    (c >= 0xFE30 && c <= 0xFE6F) || (c >= 0xFF5F && c <= 0xFF65) ||
                    (c >= 0xFFE0 && c <= 0xFFFF) || (c >= 0x1F000 && c <= 0x1FAFF) || c >= 0xE0000;
  return sign || utf8::is_blank(c) ? kSeparator : c;
}

char32_t fold(char32_t c) {
  if (c >= 0xC0 && c <= 0x24F) {
    return c == 0xD7 || c == 0xF7 ? kSeparator : fold_latin(c, kLatin, 0xC0);
  }
  if (c >= 0x600 && c <= 0x6FF) {
    return fold_arabic(c);
  }
  if (c >= 0x400 && c <= 0x52F) {
    return fold_cyrillic(c);
  }
  if (c >= 0x370 && c <= 0x3CF && c != 0x37E && c != 0x387) {
    return fold_greek(c, kGreek, 0x370);
  }
  if (c >= 0x1E00 && c <= 0x1EFF) {
    return fold_latin(c, kLatinAdditional, 0x1E00);
  }
  if (c >= 0x1F00 && c <= 0x1FFF) {
    return fold_greek(c, kGreekExtended, 0x1F00);
  }
  return fold_rest(c);
}

struct Pair {
  char32_t first = 0;
  char32_t second = 0;
};

// Letters that fold to two; for all others, nothing.
Pair fold_to_two(char32_t c) {
  switch (c) {
    case 0xC6:
    case 0xE6:
    case 0x1E2:
    case 0x1E3:
    case 0x1FC:
    case 0x1FD:
      return {'a', 'e'};
    case 0x152:
    case 0x153:
      return {'o', 'e'};
    case 0xDF:
    case 0x1E9E:
      return {'s', 's'};
    case 0xDE:
    case 0xFE:
      return {'t', 'h'};
    case 0x132:
    case 0x133:
      return {'i', 'j'};
    default:
      break;
  }
  if (c >= 0xFEF5 && c <= 0xFEFC) {  // lam-alef
    return {0x644, 0x627};
  }
  return {};
}

constexpr char32_t kHangulFirst = 0xAC00;
constexpr char32_t kHangulLast = 0xD7A3;

// By Unicode's arithmetic: leading consonant, vowel, and perhaps a trailing consonant.
void push_hangul(char32_t c, std::vector<char32_t>& letters) {
  const char32_t index = c - kHangulFirst;
  letters.push_back(0x1100 + index / 588);
  letters.push_back(0x1161 + index % 588 / 28);
  if (index % 28 != 0) {
    letters.push_back(0x11A7 + index % 28);
  }
}

void end_word(FoldedText& out) {
  const std::size_t start = out.ends.empty() ? 0 : out.ends.back();
  if (out.letters.size() > start) {
    out.ends.push_back(out.letters.size());
  }
}

void take(char32_t c, FoldedText& out) {
  if (c >= kHangulFirst && c <= kHangulLast) {
    push_hangul(c, out.letters);
    return;
  }
  if (const Pair pair = fold_to_two(c); pair.first != 0) {
    out.letters.push_back(pair.first);
    out.letters.push_back(pair.second);
    return;
  }
  const char32_t folded = fold(c);
  if (folded == kSeparator) {
    end_word(out);
  } else if (folded != kIgnored) {
    out.letters.push_back(folded);
  }
}

// A text like "…" or "→": better its signs than no vector at all. What cannot be seen is as good as
// blank.
void take_signs(std::string_view text, FoldedText& out) {
  for (std::size_t at = 0; at < text.size();) {
    const utf8::CodePoint point = utf8::decode(text, at);
    at += point.length;
    if (!utf8::is_blank(point.value) && fold(point.value) != kIgnored) {
      out.letters.push_back(point.value);
    }
  }
  end_word(out);
}

}  // namespace

void fold_text(std::string_view text, FoldedText& out) {
  out.letters.clear();
  out.ends.clear();
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) {
      ++at;
      if (const char32_t folded = kAscii[byte]; folded != kSeparator) {
        out.letters.push_back(folded);
      } else {
        end_word(out);
      }
      continue;
    }
    const utf8::CodePoint point = utf8::decode(text, at);
    at += point.length;
    take(point.value, out);
  }
  end_word(out);
  if (out.empty()) {
    take_signs(text, out);
  }
}

}  // namespace core
