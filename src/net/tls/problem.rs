//! What went wrong in a handshake, in words for an operator: whose fault it is, and what to change.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// The upstream's side of it.
pub(super) fn of_server(error: io::Error) -> io::Error {
    let said = match inner(&error) {
        Some(Error::InvalidCertificate(wrong)) => match wrong {
            // The latter where the right one has the same name, made anew perhaps.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "no authority that is known here signed the server's certificate; name the file of the one that did: ?ca=FILE"
                    .to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is for another name ({wrong}); give that name: ?sni=NAME")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired; the server needs a new one".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet; is the clock of this machine right?".to_owned()
            }
            other => format!("the server's certificate is not good: {other}"),
        },
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "the server wants a certificate of its clients; give one: ?cert=FILE&key=FILE".to_owned()
        }
        Some(Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError // a signature on it is not right
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA),
        )) => format!("the server refused the handshake ({alert:?}); it may want a certificate (?cert=FILE&key=FILE)"),
        Some(Error::InvalidMessage(_)) => "the server does not speak TLS there; write redis:// or another port".to_owned(),
        Some(other) => format!("TLS with the server failed: {other}"),
        None => return error, // of the connection below
    };
    io::Error::new(error.kind(), said)
}

/// A client's side of it.
pub(super) fn of_client(error: io::Error) -> io::Error {
    let said = match inner(&error) {
        Some(Error::NoCertificatesPresented) => "it showed no certificate, and tls_client_auth wants one".to_owned(),
        Some(Error::InvalidCertificate(wrong)) => format!("its certificate is not good: {wrong}"),
        Some(Error::InvalidMessage(_)) => {
            "it does not speak TLS; is its URL redis:// in place of rediss://?".to_owned()
        }
        Some(Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnknownCA),
        )) => format!("it does not accept the certificate in tls_cert ({alert:?})"),
        Some(other) => format!("TLS with it failed: {other}"),
        None => return error, // of the connection below
    };
    io::Error::new(error.kind(), said)
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn says_what_to_change() {
        let server = |error| of_server(wrapped(error)).to_string();
        assert!(server(Error::InvalidCertificate(CertificateError::UnknownIssuer)).contains("?ca=FILE"));
        assert!(server(Error::InvalidCertificate(CertificateError::NotValidForName)).contains("?sni=NAME"));
        assert!(server(Error::InvalidCertificate(CertificateError::Expired)).contains("expired"));
        assert!(server(Error::AlertReceived(AlertDescription::CertificateRequired)).contains("?cert=FILE"));
        assert!(server(Error::DecryptError).contains("TLS with the server failed"));
        assert!(of_client(wrapped(Error::NoCertificatesPresented)).to_string().contains("tls_client_auth"));
        assert_eq!(of_server(io::ErrorKind::UnexpectedEof.into()).kind(), io::ErrorKind::UnexpectedEof);
    }
}
