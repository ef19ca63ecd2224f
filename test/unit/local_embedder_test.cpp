// core/text_fold and core/local_embedder: what texts are alike, and that vectors never change.
#include "core/local_embedder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "core/text_fold.hpp"

namespace {

// The words of a text, as UTF-8 joined by "|".
std::string folded(std::string_view text) {
  core::FoldedText words;
  core::fold_text(text, words);
  std::string out;
  std::size_t at = 0;
  for (const std::size_t end : words.ends) {
    out += out.empty() ? "" : "|";
    for (; at < end; ++at) {
      const char32_t c = words.letters[at];
      if (c < 0x80) {
        out += static_cast<char>(c);
      } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | (c >> 6));
        out += static_cast<char>(0x80 | (c & 0x3F));
      } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | (c >> 12));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
      } else {
        out += static_cast<char>(0xF0 | (c >> 18));
        out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
      }
    }
  }
  return out;
}

std::vector<float> embed(std::string_view text, std::size_t dimensions = 1024) {
  auto vector = core::LocalEmbedder(dimensions).embed(text);
  if (!vector) {
    ADD_FAILURE() << "no vector for: " << text;
    return std::vector<float>(dimensions);
  }
  return *std::move(vector);
}

double cosine(std::string_view a, std::string_view b, std::size_t dimensions = 1024) {
  const auto x = embed(a, dimensions);
  const auto y = embed(b, dimensions);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  }
  return sum;
}

double norm(const std::vector<float>& vector) {
  double sum = 0;
  for (const float value : vector) {
    sum += static_cast<double>(value) * static_cast<double>(value);
  }
  return std::sqrt(sum);
}

// --- folding ---------------------------------------------------------------------------------

TEST(TextFold, French) {
  EXPECT_EQ(folded("L’École à Noël: ça, où ?"), "l|ecole|a|noel|ca|ou");
  EXPECT_EQ(folded("CŒUR cœur Æquo straße"), "coeur|coeur|aequo|strasse");
  EXPECT_EQ(folded("aujourd'hui 3,14"), "aujourd|hui|3|14");
}

TEST(TextFold, ComposedAndDecomposedAreTheSame) {
  // é à ç ô ü ñ, then Vietnamese ế, Greek ώ, Cyrillic й ё, Arabic آ أ ؤ ئ, Hangul 한.
  EXPECT_EQ(folded("\u00e9\u00e0\u00e7\u00f4\u00fc\u00f1"),
            folded("e\u0301a\u0300c\u0327o\u0302u\u0308n\u0303"));
  EXPECT_EQ(folded("\u1ebf"), folded("e\u0302\u0301"));
  EXPECT_EQ(folded("\u1ebf"), "e");
  EXPECT_EQ(folded("\u03ce"), folded("\u03c9\u0301"));
  EXPECT_EQ(folded("\u0439\u0451"), folded("\u0438\u0306\u0435\u0308"));
  EXPECT_EQ(folded("\u0622\u0623\u0624\u0626"),
            folded("\u0627\u0653\u0627\u0654\u0648\u0654\u064a\u0654"));
  EXPECT_EQ(folded("\ud55c"), folded("\u1112\u1161\u11ab"));
}

TEST(TextFold, Case) {
  EXPECT_EQ(folded("ÉCOLE Łódź ĞÜNEŞ"), folded("école łódź ğüneş"));
  EXPECT_EQ(folded("ΑΘΉΝΑ ΟΔΥΣΣΕΎΣ"), folded("αθήνα οδυσσεύς"));
  EXPECT_EQ(folded("МОСКВА ЇЖАК ЁЛКА"), folded("москва їжак ёлка"));
}

TEST(TextFold, Arabic) {
  EXPECT_EQ(folded("مَدْرَسَةٌ"), folded("مدرسة"));
  EXPECT_EQ(folded("مـــدرسة"), "مدرسه");
  EXPECT_EQ(folded("أحمد إلى آمن ٱلله"), "احمد|الي|امن|الله");
  EXPECT_EQ(folded("١٢٣ ۴۵۶"), "123|456");
  EXPECT_EQ(folded("نعم، لا؛ لماذا؟"), "نعم|لا|لماذا");
  // Presentation forms: lam-alef, and مدرسة.
  EXPECT_EQ(folded("\ufefb"), "لا");
  EXPECT_EQ(folded("\ufee3\ufeaa\ufead\ufeb3\ufe94"), "مدرسه");
  EXPECT_EQ(folded("هٰذا"), folded("هذا"));
}

TEST(TextFold, WhatParts) {
  EXPECT_EQ(folded("a\u00a0b\u2028c\u3000d—e…f"), "a|b|c|d|e|f");
  // Soft hyphen, zero-width joiner and direction marks do not.
  EXPECT_EQ(folded("co\u00adop\u200der\u200fate"), "cooperate");
  EXPECT_EQ(folded("שָׁלוֹם"), folded("שלום"));
  EXPECT_EQ(folded("ＦＵＬＬ　ｗｉｄｔｈ１"), "full|width1");
}

TEST(TextFold, NothingToBeSeen) {
  for (const std::string_view text : {"", " ", "\t\r\n", "\u00a0\u2003\u3000", "\u200b\ufeff"}) {
    EXPECT_EQ(folded(text), "") << text;
  }
}

TEST(TextFold, SignsAloneAreOneWord) {
  EXPECT_EQ(folded(" -> … "), "->…");
  EXPECT_EQ(folded("🙂 🙂"), "🙂🙂");
}

TEST(TextFold, BytesThatAreNotUtf8) {
  EXPECT_EQ(folded("ab\xff\xfe"
                   "cd"),
            "ab|cd");
  EXPECT_EQ(folded("ab\xc3"), "ab");
  EXPECT_EQ(folded("ab\xed\xa0\x80"
                   "cd"),
            "ab|cd");  // half a surrogate pair
}

// --- vectors ---------------------------------------------------------------------------------

// Fixed for ever: if this fails, the vectors in users' tables no longer match what queries are
// embedded to. Then the change is wrong, or needs a new name for the model.
TEST(LocalEmbedder, VectorsNeverChange) {
  const std::vector<std::string_view> texts = {
      "The quick brown fox jumps over the lazy dog.",
      "L'élève étudie les équations du second degré à l'école.",
      "يدرس الطالب المعادلات من الدرجة الثانية في المدرسة.",
      "二次方程式の解き方",
      "Ученик решает уравнения",
      "…",
      "a",
      "1 2 3 3 3 3 3"};
  core::Sha256 hash;
  for (const std::size_t dimensions : {8, 100, 1536}) {
    for (const std::string_view text : texts) {
      for (const float value : embed(text, dimensions)) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &value, sizeof bits);
        const unsigned char bytes[4] = {
            static_cast<unsigned char>(bits), static_cast<unsigned char>(bits >> 8),
            static_cast<unsigned char>(bits >> 16), static_cast<unsigned char>(bits >> 24)};
        hash.update({reinterpret_cast<const char*>(bytes), 4});
      }
    }
  }
  EXPECT_EQ(hash.hex(), "6b3cfa842c73ca0288d8a03be09ba877cd542f6c441731a955ec83899c848c32");
  EXPECT_EQ(core::kLocalModel, "local-1");
}

TEST(LocalEmbedder, OneObjectGivesTheSameAsAFreshOne) {
  core::LocalEmbedder embedder(256);
  std::string longer;
  for (int i = 0; i < 20000; ++i) {
    longer += "word" + std::to_string(i) + " ";
  }
  const auto first = embedder.embed("Une phrase courte.");
  ASSERT_TRUE(embedder.embed(longer));
  EXPECT_EQ(embedder.embed("Une phrase courte."), first);
  EXPECT_EQ(embedder.embed(longer), core::LocalEmbedder(256).embed(longer));
}

TEST(LocalEmbedder, LengthOne) {
  for (const std::size_t dimensions : {8, 9, 31, 384, 768, 1024, 1536, 3072, 16000}) {
    for (const std::string_view text :
         {"a", "Hello, world", "Le théorème de Pythagore", "نظرية فيثاغورس", "…"}) {
      const auto vector = embed(text, dimensions);
      EXPECT_EQ(vector.size(), dimensions);
      EXPECT_NEAR(norm(vector), 1, 1e-6) << text << " in " << dimensions;
    }
  }
}

// In eight dimensions, some pairs of words cancel out.
TEST(LocalEmbedder, NeverAllZeros) {
  core::LocalEmbedder embedder(8);
  for (int i = 0; i < 300; ++i) {
    for (int j = 0; j < 30; ++j) {
      const auto vector = embedder.embed(std::to_string(i) + " " + std::to_string(j));
      ASSERT_TRUE(vector);
      ASSERT_NEAR(norm(*vector), 1, 1e-6);
    }
  }
}

TEST(LocalEmbedder, NoVectorWithoutText) {
  core::LocalEmbedder embedder(64);
  EXPECT_FALSE(embedder.embed(""));
  EXPECT_FALSE(embedder.embed(" \n\t\u00a0\u200b"));
  EXPECT_TRUE(embedder.embed("."));
}

TEST(LocalEmbedder, DimensionsOutOfRange) {
  for (const std::size_t dimensions : {std::size_t{0}, std::size_t{7}, std::size_t{16001}}) {
    try {
      const core::LocalEmbedder embedder(dimensions);
      ADD_FAILURE() << embedder.dimensions();
    } catch (const core::Error& error) {
      EXPECT_STREQ(error.sqlstate(), "22023");
    }
  }
}

TEST(LocalEmbedder, SameTextWrittenInTwoWays) {
  EXPECT_EQ(embed("l\u2019\u00e9t\u00e9 \u00e0 No\u00ebl"),
            embed("l'e\u0301te\u0301 a\u0300 Noe\u0308l"));
  EXPECT_EQ(embed("يَدْرُسُ الطَّالِبُ فِي المَدْرَسَةِ"), embed("يدرس الطالب في المدرسة"));
}

// Two that speak of the same, and one that does not.
struct Triple {
  std::string_view text;
  std::string_view related;
  std::string_view unrelated;
};

TEST(LocalEmbedder, RelatedTextsAreCloser) {
  const std::vector<Triple> triples = {
      {"Solving quadratic equations with the discriminant",
       "The discriminant tells how many solutions a quadratic equation has",
       "The French Revolution began in the summer of 1789"},
      {"La photosynthèse transforme la lumière en énergie chimique",
       "Les plantes tirent leur énergie de la lumière par photosynthèse",
       "Le traité de Westphalie mit fin à la guerre de Trente Ans"},
      {"Les équations du second degré", "Une équation de degré deux, et ses racines",
       "Le cycle de l'eau dans la nature"},
      {"حل المعادلات من الدرجة الثانية باستخدام المميز",
       "المميز يحدد عدد حلول معادلة الدرجة الثانية", "بدأت الثورة الفرنسية في صيف عام 1789"},
      {"التمثيل الضوئي في النباتات الخضراء", "كيف تصنع النباتات غذاءها بالتمثيل الضوئي؟",
       "تاريخ الدولة العثمانية في القرن السادس عشر"},
  };
  for (const std::size_t dimensions : {256, 1024, 1536}) {
    for (const auto& [text, related, unrelated] : triples) {
      const double near = cosine(text, related, dimensions);
      const double far = cosine(text, unrelated, dimensions);
      EXPECT_GT(near, far + 0.1) << text << " in " << dimensions;
      EXPECT_NEAR(cosine(text, text, dimensions), 1, 1e-6);
    }
  }
}

TEST(LocalEmbedder, ArabicArticleHardlyMatters) {
  EXPECT_GT(cosine("الكتاب", "كتاب"), 0.7);
  EXPECT_GT(cosine("والكتاب", "كتاب"), 0.7);
  EXPECT_GT(cosine("للكتاب", "كتاب"), 0.7);
  EXPECT_LT(cosine("كتاب", "قمر"), 0.2);
}

TEST(LocalEmbedder, RepeatingDoesNotRule) {
  std::string repeated = "photosynthesis needs light ";
  for (int i = 0; i < 50; ++i) {
    repeated += "and ";
  }
  EXPECT_GT(cosine(repeated, "photosynthesis needs light"), 0.7);
}

// More dimensions, fewer collisions: texts that share nothing come closer to a right angle.
TEST(LocalEmbedder, CollisionsCancelOut) {
  double sum = 0;
  for (int i = 0; i < 50; ++i) {
    const std::string a = "alpha" + std::to_string(i * 7919) + " gamma" + std::to_string(i);
    const std::string b =
        "zzyx" + std::to_string(i * 104729 + 13) + " kwok" + std::to_string(i * i);
    sum += cosine(a, b, 512);
  }
  EXPECT_NEAR(sum / 50, 0, 0.05);
}

}  // namespace
