// core/text_sentences: where a first sentence ends.
#include "core/text_sentences.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "core/utf8.hpp"

namespace {

std::string first(std::string_view text) { return core::first_sentence(text); }

std::size_t characters(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size(); at += core::utf8::decode(text, at).length) {
    ++count;
  }
  return count;
}

TEST(FirstSentence, Ends) {
  EXPECT_EQ(first("The square of the hypotenuse. And more."), "The square of the hypotenuse.");
  EXPECT_EQ(first("Quelle est la dérivée de f ? On calcule."), "Quelle est la dérivée de f ?");
  EXPECT_EQ(first("What a wonderful proof this is! Yes."), "What a wonderful proof this is!");
  EXPECT_EQ(first("Et ainsi de suite, sans fin… Puis."), "Et ainsi de suite, sans fin…");
  EXPECT_EQ(first("ما هو ناتج هذه المعادلة البسيطة؟ الجواب"), "ما هو ناتج هذه المعادلة البسيطة؟");
  EXPECT_EQ(first("یہ ایک لمبا جملہ ہے جو ختم ہوتا ہے۔ دوسرا"),
            "یہ ایک لمبا جملہ ہے جو ختم ہوتا ہے۔");
  EXPECT_EQ(first("二次方程的判别式表明它有多少个实数解以及更多内容。而首项"),
            "二次方程的判别式表明它有多少个实数解以及更多内容。");
  EXPECT_EQ(first("A heading without full stop\nThen text."), "A heading without full stop");
  EXPECT_EQ(first("No end at all in this text"), "No end at all in this text");
}

TEST(FirstSentence, WithWhatCloses) {
  EXPECT_EQ(first("Il dit : « Je pense, donc je suis ! » Puis il se tut."),
            "Il dit : « Je pense, donc je suis !");
  EXPECT_EQ(first("He said \"this is the very end.\" Then he left."),
            "He said \"this is the very end.\"");
  EXPECT_EQ(first("(This stands in brackets.) Then more."), "(This stands in brackets.)");
}

TEST(FirstSentence, PointsWithinNumbersAndWords) {
  EXPECT_EQ(first("The number 3.14159 is near pi. More."), "The number 3.14159 is near pi.");
  EXPECT_EQ(first("Look at www.example.org for more of it. End."),
            "Look at www.example.org for more of it.");
}

TEST(FirstSentence, ShortOnesGoOn) {
  EXPECT_EQ(first("Yes. No. Perhaps it is so. End."), "Yes. No. Perhaps it is so.");
  EXPECT_EQ(first("Chapter 1\nThe beginning of it all\nText"), "Chapter 1 The beginning of it all");
  EXPECT_EQ(first("Short."), "Short.");
}

TEST(FirstSentence, Blanks) {
  EXPECT_EQ(first("  \n\t A  sentence\twith\u00a0 many   blanks. B"),
            "A sentence with many blanks.");
  EXPECT_EQ(first(" \n\u3000 "), "");
  EXPECT_EQ(first(""), "");
}

TEST(FirstSentence, LongOnesAreCutBetweenWords) {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "مدرسة ";
  }
  const std::string cut = first(text);
  EXPECT_LE(characters(cut), core::kMaxSentence);
  EXPECT_GT(characters(cut), core::kMaxSentence - 7);
  EXPECT_TRUE(cut.ends_with("مدرسة"));
  EXPECT_TRUE(core::utf8::is_valid(cut));

  std::string word;
  for (int i = 0; i < 500; ++i) {
    word += "é";
  }
  EXPECT_EQ(characters(first(word)), core::kMaxSentence);
  EXPECT_TRUE(core::utf8::is_valid(first(word)));
  EXPECT_EQ(characters(first("a " + word)), core::kMaxSentence);
}

TEST(FirstSentence, BytesThatAreNotUtf8) {
  EXPECT_EQ(first("Some \xff text with\xc3 a fault in it. B"), "Some text with a fault in it.");
}

}  // namespace
