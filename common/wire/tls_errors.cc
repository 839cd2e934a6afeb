#include "common/wire/tls_errors.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <array>

namespace godwit {
namespace {

constexpr int kAlertReasonBase =
    1000;  // SSL_AD_REASON_OFFSET: reasons above it are alerts received

struct AlertText {
  int alert;
  const char* why;
  const char* hint;
};

constexpr char kIssueHint[] = "issue a new one with: migrate keys issue";

constexpr std::array kCertificateAlerts{
    AlertText{SSL3_AD_BAD_CERTIFICATE, "it is not valid (yet)", "compare the clocks of both hosts"},
    AlertText{SSL3_AD_UNSUPPORTED_CERTIFICATE, "it has the wrong role",
              "a source needs --role source, a destination --role destination"},
    AlertText{SSL3_AD_CERTIFICATE_REVOKED, "certificate revoked", kIssueHint},
    AlertText{SSL3_AD_CERTIFICATE_EXPIRED, "certificate expired", kIssueHint},
    AlertText{SSL3_AD_CERTIFICATE_UNKNOWN, "it could not be judged", kIssueHint},
    AlertText{TLS1_AD_UNKNOWN_CA, "it is signed by another authority",
              "both hosts need certificates of the same migrate keys init"},
    AlertText{TLS1_AD_ACCESS_DENIED, "access denied", kIssueHint},
    AlertText{TLS1_AD_DECRYPT_ERROR, "its signature does not verify",
              "both hosts need certificates of the same migrate keys init"},
    AlertText{TLS13_AD_CERTIFICATE_REQUIRED, "we sent none", kIssueHint},
};

bool is_not_tls(int reason) {
  switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_RECORD_LENGTH_MISMATCH:
    case SSL_R_UNEXPECTED_MESSAGE:
      return true;
    default:
      return false;
  }
}

Error alert_error(int alert, const std::string& doing) {
  for (const AlertText& text : kCertificateAlerts) {
    if (text.alert != alert) continue;
    return Error(fmt::format("{}: the peer refused our certificate: {}", doing, text.why), EACCES,
                 text.hint);
  }
  return Error(fmt::format("{}: the peer gave up with the TLS alert \"{}\"", doing,
                           SSL_alert_desc_string_long(alert)),
               EPROTO);
}

}  // namespace

std::string drain_openssl_errors() {
  std::string all;
  while (const unsigned long code = ERR_get_error()) {
    std::array<char, 256> text{};
    ERR_error_string_n(code, text.data(), text.size());
    if (!all.empty()) all += "; ";
    all += text.data();
  }
  return all.empty() ? "no reason given" : all;
}

Error certificate_error(long verify_result, const std::string& name, const std::string& found_unit,
                        const std::string& expected_unit) {
  const std::string subject = fmt::format("the peer's certificate (\"{}\") is refused", name);
  switch (verify_result) {
    case X509_V_ERR_INVALID_PURPOSE:
      return Error(fmt::format("{}: wrong role: OU is \"{}\", expected \"{}\"", subject, found_unit,
                               expected_unit),
                   EACCES, "a source needs --role source, a destination --role destination");
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return Error(fmt::format("{}: it has expired", subject), EACCES,
                   "issue a new one with: migrate keys issue");
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return Error(fmt::format("{}: it is not valid yet", subject), EACCES,
                   "compare the clocks of both hosts");
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return Error(fmt::format("{}: it is signed by another authority", subject), EACCES,
                   "both hosts need certificates of the same migrate keys init");
    default:
      return Error(fmt::format("{}: {}", subject, X509_verify_cert_error_string(verify_result)),
                   EACCES);
  }
}

Error protocol_error(const std::string& doing) {
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  if (ERR_GET_LIB(code) == ERR_LIB_SSL) {
    if (reason > kAlertReasonBase && reason < kAlertReasonBase + 256) {
      ERR_clear_error();
      return alert_error(reason - kAlertReasonBase, doing);
    }
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
      ERR_clear_error();
      return Error(fmt::format("{}: the peer showed no certificate", doing), EACCES);
    }
    if (reason == SSL_R_UNSUPPORTED_PROTOCOL || reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION) {
      ERR_clear_error();
      return Error(fmt::format("{}: the peer does not speak TLS 1.3", doing), EPROTO);
    }
    if (is_not_tls(reason)) {
      ERR_clear_error();
      return Error(fmt::format("{}: what answers there does not speak TLS", doing), EPROTO,
                   "is the port right, and is it a godwit agent?");
    }
  }
  return Error(fmt::format("{}: {}", doing, drain_openssl_errors()), EPROTO);
}

}  // namespace godwit
