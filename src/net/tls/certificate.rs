//! What a certificate says of itself, as far as crema looks at it.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;

/// When it ends, in seconds since 1970.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(parsed(certificate)?.validity().not_after.timestamp())
}

/// Whether it is over by now.
pub(super) fn has_ended(certificate: &CertificateDer<'_>) -> bool {
    parsed(certificate).is_none_or(|certificate| !certificate.validity().is_valid())
}

/// The common name of its subject; `None` where there is none, or more than one, of which nobody could say which is meant.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = parsed(certificate)?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, date_time_ymd};

    use super::*;

    fn signed(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").der().clone()
    }

    #[test]
    fn a_common_name_is_that_of_the_subject() {
        let named = signed(|params| params.distinguished_name.push(DnType::CommonName, "reports"));
        assert_eq!(common_name(&named).as_deref(), Some("reports"));
        let odd = DnValue::Utf8String("with\0nul".to_owned());
        let odd = signed(|params| params.distinguished_name.push(DnType::CommonName, odd));
        assert_eq!(common_name(&odd).as_deref(), Some("with\0nul"), "and no user's, up to the NUL");
        let other = signed(|params| params.distinguished_name.push(DnType::OrganizationName, "reports"));
        assert_eq!(common_name(&other), None);
        assert_eq!(common_name(&CertificateDer::from(vec![1, 2, 3])), None);
    }

    #[test]
    fn tells_when_it_ends() {
        let old = signed(|params| params.not_after = date_time_ymd(2002, 1, 1));
        assert_eq!(expiry(&old), Some(1_009_843_200));
        assert!(has_ended(&old));
        assert!(!has_ended(&signed(|_| ())));
    }
}
