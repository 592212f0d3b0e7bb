//! Certificates of one test run: an authority of its own, gone with the run.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Error, Result};

/// Signs certificates for loopback servers and for users.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key, both PEM.
pub struct Pair {
    /// Certificate.
    pub certificate: String,
    /// Private key, PKCS #8.
    pub key: String,
    certificate_der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let certificate = params.self_signed(&key).map_err(Error::Certificate)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// The authority's own certificate, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for a server on loopback.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn server(&self) -> Result<Pair> {
        self.server_named(&[])
    }

    /// A certificate for a server on loopback that others know by these names and addresses, too.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn server_named(&self, more: &[String]) -> Result<Pair> {
        let names = ["127.0.0.1", "::1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let params = CertificateParams::new([&names[..], more].concat());
        self.issue(
            params.map_err(Error::Certificate)?,
            ExtendedKeyUsagePurpose::ServerAuth,
            "server",
        )
    }

    /// A certificate by which a user logs in, in `group`.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn user(&self, name: &str, group: &str) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth, name)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        name: &str,
    ) -> Result<Pair> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(Error::Certificate)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        })
    }
}

impl Pair {
    /// The pair as a TLS server's configuration, with ring.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub fn server_config(self) -> Result<Arc<rustls::ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![self.certificate_der.into()], key)
            })
            .map_err(Error::Tls)?;
        Ok(Arc::new(config))
    }
}

/// A key pair for signing service-account tokens: private PKCS #8 and public, PEM.
///
/// # Errors
/// When no key can be made.
pub fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate().map_err(Error::Certificate)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}
