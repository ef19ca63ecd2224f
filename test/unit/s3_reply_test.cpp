// core/s3_reply: replies as the servers write them, and bodies that must not pass for one.
#include "core/s3_reply.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>

namespace {

// The reply of one kind, or a test failure and an empty one.
template <typename Kind>
Kind read(std::string_view body) {
  const auto reply = core::read_s3_reply(body);
  if (!reply || !std::holds_alternative<Kind>(*reply)) {
    ADD_FAILURE() << (reply ? "another kind: " : "no reply: ") << body;
    return {};
  }
  return std::get<Kind>(*reply);
}

void expect_none(std::string_view body) {
  EXPECT_FALSE(core::read_s3_reply(body)) << body.substr(0, 200);
}

std::string error_with_message(std::string_view message) {
  return "<Error><Code>C</Code><Message>" + std::string(message) + "</Message></Error>";
}

// --- errors ----------------------------------------------------------------------------------

TEST(S3Error, OfAws) {
  const auto error = read<core::S3Error>(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is "
      "malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>"
      "<Region>eu-west-1</Region><RequestId>4442587FB7D0A2F9</RequestId>"
      "<HostId>Xy/z+1=</HostId></Error>");
  EXPECT_EQ(error.code, "AuthorizationHeaderMalformed");
  EXPECT_EQ(error.message,
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting "
            "'eu-west-1'");
  EXPECT_EQ(error.region, "eu-west-1");
  EXPECT_EQ(error.request_id, "4442587FB7D0A2F9");
  EXPECT_EQ(error.host_id, "Xy/z+1=");
  EXPECT_EQ(error.endpoint, "");
  EXPECT_EQ(error.bucket, "");
}

TEST(S3Error, OfARedirection) {
  const auto error = read<core::S3Error>(
      "<Error><Code>PermanentRedirect</Code><Message>Use the endpoint.</Message>"
      "<Endpoint>b.s3.eu-west-1.amazonaws.com</Endpoint><Bucket>b</Bucket></Error>");
  EXPECT_EQ(error.endpoint, "b.s3.eu-west-1.amazonaws.com");
  EXPECT_EQ(error.bucket, "b");
}

TEST(S3Error, OfOtherServers) {
  // Ceph: no message, the bucket under another name. Swift: apostrophes in the declaration.
  const auto ceph = read<core::S3Error>(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>NoSuchKey</Code><Message></Message>"
      "<BucketName>backups</BucketName><RequestId>tx0001-zone</RequestId></Error>");
  EXPECT_EQ(ceph.code, "NoSuchKey");
  EXPECT_EQ(ceph.message, "");
  EXPECT_EQ(ceph.bucket, "backups");
  const auto swift = read<core::S3Error>(
      "<?xml version='1.0' encoding='UTF-8'?>\n<Error>\n  <Code>SignatureDoesNotMatch</Code>\n"
      "  <Message>No.</Message>\n  <StringToSign>AWS4\n&#13;</StringToSign>\n</Error>\n");
  EXPECT_EQ(swift.code, "SignatureDoesNotMatch");
}

TEST(S3Error, WithoutCodeOrMessage) {
  EXPECT_EQ(read<core::S3Error>("<Error><Code>X</Code></Error>").code, "X");
  EXPECT_EQ(read<core::S3Error>("<Error><Message>m</Message></Error>").message, "m");
  expect_none("<Error/>");
  expect_none("<Error></Error>");
  expect_none("<Error><Code/><Message></Message><RequestId>1</RequestId></Error>");
}

// --- multipart uploads -----------------------------------------------------------------------

TEST(S3UploadStarted, HasAnId) {
  EXPECT_EQ(read<core::S3UploadStarted>(
                "<?xml version=\"1.0\"?><InitiateMultipartUploadResult "
                "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>b</Bucket>"
                "<Key>a/b</Key><UploadId>VXBsb2Fk.ID-_~</UploadId></InitiateMultipartUploadResult>")
                .upload_id,
            "VXBsb2Fk.ID-_~");
  expect_none("<InitiateMultipartUploadResult><Key>k</Key></InitiateMultipartUploadResult>");
  expect_none("<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>");
}

TEST(S3UploadCompleted, HasAnEtag) {
  const char* const body =
      "<CompleteMultipartUploadResult><Location>http://h/b/k</Location><Bucket>b</Bucket>"
      "<Key>k</Key><ETag>&quot;3858f62230ac3c915f300c664312c11f-9&quot;</ETag>"
      "</CompleteMultipartUploadResult>";
  EXPECT_EQ(read<core::S3UploadCompleted>(body).etag, "\"3858f62230ac3c915f300c664312c11f-9\"");
  EXPECT_EQ(read<core::S3UploadCompleted>("<CompleteMultipartUploadResult/>").etag, "");
}

// The server answers 200 first, sends blanks while it works, and then says that it failed.
TEST(S3UploadCompleted, AnErrorInItsPlaceIsSeen) {
  const std::string error = "<Error><Code>InternalError</Code><Message>m</Message></Error>";
  for (const char* before :
       {"", "\n\n   \r\n\t", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n \n \n", "  <?xml version=\"1.0\"?>  ",
        "\xEF\xBB\xBF", "<!-- please wait --> "}) {
    EXPECT_EQ(read<core::S3Error>(before + error).code, "InternalError") << before;
  }
  const std::string blanks(1'000'000, ' ');
  EXPECT_EQ(read<core::S3Error>(blanks + error + blanks).code, "InternalError");
}

TEST(S3UploadList, ListsUploads) {
  const auto list = read<core::S3UploadList>(
      "<ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
      "<Bucket>b</Bucket><KeyMarker/><UploadIdMarker/><NextKeyMarker>k2</NextKeyMarker>"
      "<NextUploadIdMarker>u2</NextUploadIdMarker><MaxUploads>2</MaxUploads>"
      "<IsTruncated>true</IsTruncated>"
      "<Upload><Key>k1</Key><UploadId>u1</UploadId><Initiator><ID>i</ID></Initiator>"
      "<Owner><ID>o</ID></Owner><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>"
      "<Upload><UploadId>u2</UploadId><Key>k2</Key></Upload></ListMultipartUploadsResult>");
  ASSERT_EQ(list.uploads.size(), 2U);
  EXPECT_EQ(list.uploads[0].key, "k1");
  EXPECT_EQ(list.uploads[0].upload_id, "u1");
  EXPECT_EQ(list.uploads[1].key, "k2");
  EXPECT_EQ(list.uploads[1].upload_id, "u2");
  EXPECT_TRUE(list.truncated);
  EXPECT_EQ(list.next_key_marker, "k2");
  EXPECT_EQ(list.next_upload_id_marker, "u2");
}

TEST(S3UploadList, WithoutWhatIsNeededToGoOnItIsRefused) {
  const auto list = [](const std::string& inside) {
    return "<ListMultipartUploadsResult>" + inside + "</ListMultipartUploadsResult>";
  };
  EXPECT_FALSE(read<core::S3UploadList>(list("<IsTruncated>false</IsTruncated>")).truncated);
  expect_none(list(""));
  expect_none(list("<IsTruncated>true</IsTruncated>"));
  const std::string end = "<IsTruncated>false</IsTruncated>";
  expect_none(list("<Upload><Key>k</Key></Upload>" + end));
  expect_none(list("<Upload><UploadId>u</UploadId></Upload>" + end));
  expect_none(list("<Upload/>" + end));
}

TEST(S3UploadList, FieldsOfOtherRepliesDoNotMatter) {
  const auto list = read<core::S3UploadList>(
      "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
      "<Upload><Key>k</Key><UploadId>u</UploadId><Size>x</Size></Upload>"
      "<Upload><Key>l</Key><UploadId>v</UploadId><Size>y</Size></Upload>"
      "</ListMultipartUploadsResult>");
  ASSERT_EQ(list.uploads.size(), 2U);
  EXPECT_EQ(list.uploads[1].upload_id, "v");
}

// --- lists of objects ------------------------------------------------------------------------

std::string object_list(const std::string& inside) {
  return "<ListBucketResult>" + inside + "</ListBucketResult>";
}

TEST(S3ObjectList, ListsObjects) {
  const auto list = read<core::S3ObjectList>(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
      "<Name>b</Name><Prefix>a</Prefix><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/"
      "wm36Hy4vbOwM=</NextContinuationToken><KeyCount>2</KeyCount><MaxKeys>2</MaxKeys>"
      "<IsTruncated>true</IsTruncated><EncodingType/>"
      "<Contents><Key>a/one</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>"
      "<ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><Size>0</Size>"
      "<StorageClass>STANDARD</StorageClass></Contents>\n"
      "<Contents><Owner><ID>x</ID><DisplayName>Key</DisplayName></Owner><Key>a/two</Key>"
      "<Size>18446744073709551615</Size></Contents>"
      "<CommonPrefixes><Prefix>a/p/</Prefix></CommonPrefixes></ListBucketResult>");
  ASSERT_EQ(list.objects.size(), 2U);
  EXPECT_EQ(list.objects[0].key, "a/one");
  EXPECT_EQ(list.objects[0].size, 0U);
  EXPECT_EQ(list.objects[1].key, "a/two");
  EXPECT_EQ(list.objects[1].size, std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(list.truncated);
  EXPECT_EQ(list.next_token, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
}

TEST(S3ObjectList, MayBeEmpty) {
  const auto list = read<core::S3ObjectList>(
      object_list("<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"));
  EXPECT_TRUE(list.objects.empty());
  EXPECT_FALSE(list.truncated);
}

TEST(S3ObjectList, KeysKeepEveryCharacter) {
  const auto list = read<core::S3ObjectList>(
      object_list("<IsTruncated>false</IsTruncated><Contents><Key> a &amp;&lt;b&gt; "
                  "\xC3\xBC&#xE4;&#1;  </Key><Size>1</Size></Contents>"));
  ASSERT_EQ(list.objects.size(), 1U);
  EXPECT_EQ(list.objects[0].key, " a &<b> \xC3\xBC\xC3\xA4\x01  ");
}

TEST(S3ObjectList, AThousandOfTheLongestKeysFit) {
  std::string inside = "<IsTruncated>false</IsTruncated>";
  for (int i = 0; i < 1000; ++i) {
    inside += "<Contents><Key>";
    for (int j = 0; j < 1024; ++j) {
      inside += "&quot;";
    }
    inside += "</Key><Size>1</Size></Contents>";
  }
  const auto list = read<core::S3ObjectList>(object_list(inside));
  ASSERT_EQ(list.objects.size(), 1000U);
  EXPECT_EQ(list.objects[999].key, std::string(1024, '"'));
}

TEST(S3ObjectList, WhatCannotBeTrustedIsRefused) {
  const std::string end = "<IsTruncated>false</IsTruncated>";
  const auto with_size = [&](const std::string& size) {
    return object_list(end + "<Contents><Key>k</Key><Size>" + size + "</Size></Contents>");
  };
  EXPECT_EQ(read<core::S3ObjectList>(with_size("7")).objects[0].size, 7U);
  for (const char* size : {"", "-1", "+1", " 1", "1 ", "1.0", "0x1", "18446744073709551616"}) {
    expect_none(with_size(size));
  }
  expect_none(object_list(""));
  expect_none(object_list("<IsTruncated>maybe</IsTruncated>"));
  expect_none(object_list("<IsTruncated/>"));
  // Without a token the next request would bring the same list again. So does a server that
  // knows version 1 of this request only.
  expect_none(object_list("<IsTruncated>true</IsTruncated>"));
  expect_none(object_list("<IsTruncated>true</IsTruncated><NextMarker>k</NextMarker>"));
  expect_none(object_list(end + "<Contents/>"));
  expect_none(object_list(end + "<Contents><Key>k</Key></Contents>"));
  expect_none(object_list(end + "<Contents><Size>1</Size></Contents>"));
  expect_none(object_list(end + "<Contents><Key/><Size>1</Size></Contents>"));
  expect_none(object_list(end + "<EncodingType>url</EncodingType>"));
  // Two answers to one question.
  expect_none(object_list(end + end));
  expect_none(object_list(end + "<Contents><Key>k</Key><Key>l</Key><Size>1</Size></Contents>"));
  // Markup where a value should be.
  expect_none(object_list(end + "<Contents><Key>a<b/>c</Key><Size>1</Size></Contents>"));
}

// --- XML -------------------------------------------------------------------------------------

TEST(S3Reply, NamespacePrefixesDoNotMatter) {
  EXPECT_EQ(
      read<core::S3Error>("<s3:Error xmlns:s3=\"urn:x\"><s3:Code>C</s3:Code></s3:Error>").code,
      "C");
  expect_none("<a:Error><Code>C</Code></b:Error>");
  expect_none("<a:><Code>C</Code></a:>");
}

TEST(S3Reply, TextsAreResolved) {
  const auto message = [](std::string_view raw) {
    return read<core::S3Error>(error_with_message(raw)).message;
  };
  EXPECT_EQ(message("&amp;&lt;&gt;&quot;&apos;"), "&<>\"'");
  EXPECT_EQ(message("&amp;lt;"), "&lt;") << "once, not twice";
  EXPECT_EQ(message("&#65;&#x42;&#x00043;"), "ABC");
  EXPECT_EQ(message("&#x7F;&#x80;&#x7FF;&#x800;&#xFFFD;&#x10000;&#x10FFFF;"),
            "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBD\xF0\x90\x80\x80\xF4\x8F\xBF\xBF");
  EXPECT_EQ(message("<![CDATA[<a>&amp;]]>"), "<a>&amp;");
  EXPECT_EQ(message("a<![CDATA[]]>b<![CDATA[ c]]>"), "ab c");
  EXPECT_EQ(message("a<!-- no <b> & -->b<?pi x?>c"), "abc");
  EXPECT_EQ(message("a\r\nb\rc\nd"), "a\nb\nc\nd");
  EXPECT_EQ(message("a\r"), "a\n");
  EXPECT_EQ(message("a > b"), "a > b");
}

TEST(S3Reply, BadReferencesAreRefused) {
  for (const char* raw : {"&",
                          "&;",
                          "&amp",
                          "& amp;",
                          "&nbsp;",
                          "&AMP;",
                          "&#;",
                          "&#x;",
                          "&#0;",
                          "&#x0;",
                          "&#-1;",
                          "&#+1;",
                          "&#1 ;",
                          "&#xD800;",
                          "&#xDFFF;",
                          "&#x110000;",
                          "&#99999999999999999999;",
                          "&#X41;",
                          "&#xx41;",
                          "&#x-1;",
                          "&#12a;",
                          "a]]>b"}) {
    expect_none(error_with_message(raw));
  }
}

TEST(S3Reply, AttributesAndTagsInEveryForm) {
  EXPECT_EQ(read<core::S3Error>("<Error\n a = 'x\"' b=\"&amp;>'\" >\n<Code\t>C</Code\r\n><X y='z'/>"
                                "<Message /></Error >")
                .code,
            "C");
  for (const char* tag : {"<Error a>", "<Error a=>", "<Error a=x>", "<Error a='x>", "<Error a='<'>",
                          "<Error a='&'>", "<Error a='1'b='2'>", "<Error =''>", "<Error / >",
                          "<Error 'x'>", "< Error>", "<Error", "<Error a", "<Error a='"}) {
    expect_none(std::string(tag) + "<Code>C</Code></Error>");
  }
}

TEST(S3Reply, BrokenNestingIsRefused) {
  const std::string begun = "<Error><Code>C</Code>";
  EXPECT_EQ(read<core::S3Error>(begun + "</Error>").code, "C");
  for (const char* end :
       {"", "</Error", "</error>", "</ Error>", "</Error x='1'>", "</Error></Error>",
        "</Error><Error/>", "</Error>x", "</Error>&amp;", "</Error><![CDATA[]]>", "<></></Error>",
        "<!-- </Error>", "<!-- a -- b --></Error>", "<!-- a ---></Error>", "<![CDATA[ </Error>",
        "<![cdata[x]]></Error>", "<?pi </Error>"}) {
    expect_none(begun + end);
  }
  for (const char* start : {"x", "&#32;", "<![CDATA[]]>", "</Error>", "<Error/>"}) {
    expect_none(start + begun + "</Error>");
  }
  expect_none("<Error><Code>C</Error></Code>");
}

TEST(S3Reply, EveryBeginningOfAReplyIsNone) {
  const std::string whole =
      "<?xml version=\"1.0\"?>\n<s:ListBucketResult xmlns:s='u'><IsTruncated>false</IsTruncated>"
      "<!-- c --><Contents><Key>&#x41;<![CDATA[b]]></Key><Size>1</Size></Contents>"
      "</s:ListBucketResult>";
  ASSERT_TRUE(core::read_s3_reply(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    // A copy of its own, so that reading past the end is noticed.
    const std::string part = whole.substr(0, length);
    EXPECT_FALSE(core::read_s3_reply(part)) << part;
  }
}

TEST(S3Reply, DoctypesAndEntitiesAreRefused) {
  expect_none("<!DOCTYPE Error><Error><Code>C</Code></Error>");
  expect_none(
      "<!DOCTYPE Error [<!ENTITY a \"aaaa\"><!ENTITY b "
      "\"&a;&a;\">]><Error><Code>&b;</Code></Error>");
  expect_none("<Error><!DOCTYPE x><Code>C</Code></Error>");
  expect_none("<Error><!ELEMENT x><Code>C</Code></Error>");
}

TEST(S3Reply, OtherBodiesAreNone) {
  expect_none("");
  expect_none(" \n");
  expect_none("\xEF\xBB\xBF");
  expect_none("<?xml version=\"1.0\"?>");
  expect_none("<!DOCTYPE html><html><head><title>502</title></head><body>Bad</body></html>");
  expect_none("<html><body><h1>403 Forbidden</h1></body></html>");
  expect_none("<HTML></HTML>");
  expect_none("{\"statusCode\":\"404\",\"error\":\"Bucket not found\"}");
  expect_none("Service Unavailable");
  expect_none("<Errors><Code>C</Code></Errors>");
  expect_none("<x><Error><Code>C</Code></Error></x>");
  expect_none("<ListAllMyBucketsResult/>");
}

TEST(S3Reply, OnlyCharactersOfXmlInUtf8) {
  EXPECT_EQ(read<core::S3Error>(error_with_message("\xC2\x80\xF4\x8F\xBF\xBF")).message,
            "\xC2\x80\xF4\x8F\xBF\xBF");
  for (const std::string_view raw :
       {std::string_view("\0", 1), std::string_view("\x01"), std::string_view("\x1F"),
        std::string_view("\x80"), std::string_view("\xC3"), std::string_view("\xC0\x80"),
        std::string_view("\xE0\x80\x80"), std::string_view("\xED\xA0\x80"),
        std::string_view("\xF0\x80\x80\x80"), std::string_view("\xF4\x90\x80\x80"),
        std::string_view("\xF8\x88\x80\x80\x80"), std::string_view("\xFF")}) {
    expect_none(error_with_message(raw));
    expect_none(raw);
  }
}

// --- limits ----------------------------------------------------------------------------------

TEST(S3Reply, DepthIsLimited) {
  const auto nested = [](int levels) {
    std::string open;
    std::string close;
    for (int i = 0; i < levels; ++i) {
      open += "<a>";
      close += "</a>";
    }
    return "<Error><Code>C</Code>" + open + close + "</Error>";
  };
  EXPECT_EQ(read<core::S3Error>(nested(15)).code, "C");
  expect_none(nested(16));
  expect_none(nested(100'000));
}

TEST(S3Reply, LengthsAreLimited) {
  EXPECT_EQ(read<core::S3Error>(error_with_message(std::string(65'536, 'x'))).message.size(),
            65'536U);
  expect_none(error_with_message(std::string(65'537, 'x')));
  expect_none(error_with_message("<![CDATA[" + std::string(65'537, 'x') + "]]>"));
  const std::string name(256, 'n');
  EXPECT_EQ(read<core::S3Error>("<Error><Code>C</Code><" + name + "/></Error>").code, "C");
  expect_none("<Error><Code>C</Code><" + name + "n/></Error>");
  const std::string error = error_with_message("m");
  const std::string blanks(core::kMaxS3ReplyBytes - error.size(), ' ');
  EXPECT_EQ(read<core::S3Error>(error + blanks).message, "m");
  expect_none(error + blanks + " ");
}

}  // namespace
