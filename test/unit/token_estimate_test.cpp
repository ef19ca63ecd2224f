// core/token_estimate: close to what cl100k_base counts, and corrected by what a service counts.
#include "core/token_estimate.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace {

struct Counted {
  std::string_view text;
  double tokens;  // by cl100k_base
};

// Sentences of some length: within a quarter of the true count.
TEST(TokenEstimate, CloseToTheTokenizer) {
  const Counted samples[] = {
      {"The discriminant of a quadratic equation tells how many real solutions it has, and the "
       "sign of the leading coefficient tells which way the parabola opens.",
       31},
      {"Le discriminant d'une équation du second degré indique le nombre de ses solutions réelles, "
       "et le signe du coefficient dominant dit de quel côté s'ouvre la parabole.",
       42},
      {"يحدد مميز المعادلة من الدرجة الثانية عدد حلولها الحقيقية، وتحدد إشارة المعامل الرئيسي "
       "الاتجاه الذي ينفتح نحوه القطع المكافئ.",
       85},
      {"الْحَمْدُ لِلَّهِ رَبِّ الْعَالَمِينَ الرَّحْمَنِ الرَّحِيمِ مَالِكِ يَوْمِ الدِّينِ", 69},
      {"Дискриминант квадратного уравнения показывает, сколько у него действительных корней.", 34},
      {"二次方程的判别式表明它有多少个实数解，而首项系数的符号决定抛物线的开口方向。", 42},
      {"In 1789, 3 estates met; by 14 July 1790 some 300 deputies (of 1,139) had left.", 31},
  };
  for (const auto& [text, tokens] : samples) {
    const auto estimated = static_cast<double>(core::estimate_tokens(text));
    EXPECT_GT(estimated, tokens * 0.75) << text;
    EXPECT_LT(estimated, tokens * 1.25) << text;
  }
}

TEST(TokenEstimate, ArabicHasMoreTokensThanFrenchForItsLength) {
  const std::string_view french = "Le théorème de Pythagore relie les côtés";  // 40 characters
  const std::string_view arabic = "نظرية فيثاغورس تربط بين أضلاع المثلث قال";  // 40 characters
  EXPECT_GT(core::estimate_tokens(arabic), 2 * core::estimate_tokens(french));
}

TEST(TokenEstimate, NeverZero) {
  EXPECT_EQ(core::estimate_tokens(""), 0U);
  for (const std::string_view text : {"a", " ", "   ", "\n", "\u00a0", "\xff", "."}) {
    EXPECT_GE(core::estimate_tokens(text), 1U);
  }
}

TEST(TokenEstimate, Digits) {
  EXPECT_EQ(core::estimate_tokens("123456789"), 6U);  // three groups
  EXPECT_EQ(core::estimate_tokens(std::string(3000, '7')), 1900U);
}

TEST(TokenEstimate, BytesThatAreNotUtf8) {
  EXPECT_EQ(core::estimate_tokens(std::string(1000, '\xff')), 1000U);
}

// Both halves of a text have about as many tokens as the whole: packing relies on sums.
TEST(TokenEstimate, AddsUp) {
  const std::string part = "Une phrase, puis une autre. ";
  std::string whole;
  for (int i = 0; i < 100; ++i) {
    whole += part;
  }
  EXPECT_NEAR(static_cast<double>(core::estimate_tokens(whole)),
              100.0 * static_cast<double>(core::estimate_tokens(part)), 60);
}

TEST(TokenCalibrator, StartsWithTheEstimate) {
  const core::TokenCalibrator calibrator;
  EXPECT_EQ(calibrator.ratio(), 1);
  EXPECT_EQ(calibrator.corrected(1234), 1234U);
  EXPECT_EQ(calibrator.corrected(0), 0U);
}

TEST(TokenCalibrator, LearnsFromWhatIsCounted) {
  core::TokenCalibrator calibrator;
  calibrator.observe(1000, 1500);
  EXPECT_DOUBLE_EQ(calibrator.ratio(), 1.5);
  calibrator.observe(3000, 2500);
  EXPECT_DOUBLE_EQ(calibrator.ratio(), 1.0);
  EXPECT_EQ(calibrator.corrected(10), 10U);
}

TEST(TokenCalibrator, FollowsAChange) {
  core::TokenCalibrator calibrator;
  for (int i = 0; i < 100; ++i) {
    calibrator.observe(50'000, 50'000);
  }
  for (int i = 0; i < 60; ++i) {
    calibrator.observe(50'000, 100'000);
  }
  EXPECT_GT(calibrator.ratio(), 1.9);
}

TEST(TokenCalibrator, IsClamped) {
  core::TokenCalibrator high;
  high.observe(1, 1'000'000);
  EXPECT_EQ(high.ratio(), core::TokenCalibrator::kHighest);
  core::TokenCalibrator low;
  low.observe(1'000'000, 1);
  EXPECT_EQ(low.ratio(), core::TokenCalibrator::kLowest);
  EXPECT_EQ(low.corrected(1), 1U);
}

TEST(TokenCalibrator, IgnoresServicesThatDoNotCount) {
  core::TokenCalibrator calibrator;
  calibrator.observe(1000, 0);
  calibrator.observe(0, 5);
  EXPECT_EQ(calibrator.ratio(), 1);
}

}  // namespace
