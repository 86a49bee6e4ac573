//! TLS to Postgres, by rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connect::Failure;
use crate::url::{Identity, Roots, TlsOptions, Verification};

/// The TLS connector for a URL's parameters.
pub(crate) fn connector(url: &TlsOptions) -> Result<MakeRustlsConnect, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: &dyn std::fmt::Display| Failure::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(url.versions)
        .map_err(|error| failed(&error))?;
    let builder = match url.verification {
        Verification::Full => builder.with_root_certificates(roots(&url.roots)?),
        relaxed => {
            let authority = match relaxed {
                Verification::None => None,
                _ => Some(
                    WebPkiServerVerifier::builder_with_provider(
                        Arc::new(roots(&url.roots)?),
                        Arc::clone(&provider),
                    )
                    .build()
                    .map_err(|error| failed(&error))?,
                ),
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(RelaxedVerifier { provider, authority }))
        }
    };
    let mut config = match &url.identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain = read_pem(certificate, "sslcert")?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| failed(&error))?
        }
    };
    config.enable_sni = url.sends_name;
    Ok(MakeRustlsConnect::new(config))
}

fn roots(roots: &Roots) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(Failure::Tls(
                    "the system has no root certificates; name a file by sslrootcert".into(),
                ));
            }
        }
        Roots::File(path) => {
            for certificate in read_pem(path, "sslrootcert")? {
                store.add(certificate).map_err(|error| unreadable("sslrootcert", path, &error))?;
            }
            if store.is_empty() {
                return Err(Failure::Tls(format!("sslrootcert {} holds no certificate", path.display())));
            }
        }
    }
    Ok(store)
}

fn read_pem(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| unreadable(parameter, path, &error))
}

fn unreadable(parameter: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Tls(format!("{parameter} {}: {error}", path.display()))
}

/// Libpq's weaker modes: `require` encrypts and verifies nothing, `verify-ca` ignores the host's name.
#[derive(Debug)]
struct RelaxedVerifier {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for RelaxedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is verified last: everything else is valid.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
