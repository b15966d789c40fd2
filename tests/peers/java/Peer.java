import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSession;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * JSSE as both ends of the matrix: {@code client CA CERT KEY HOST} obeys lines on stdin (../README.md), and
 * {@code server CA CERT KEY PORT tls1.2|tls1.3} answers one request per connection. Whether tickets are on is the system
 * property {@code jdk.tls.server.enableSessionTicketExtension}.
 */
public final class Peer {
    private static final int PATIENCE_MS = 10_000;
    private static final int PORT = 443;
    private static final char[] PASSWORD = "lab".toCharArray();

    private final KeyManagerFactory keys;
    private final TrustManagerFactory trust;

    public static void main(String[] args) throws Exception {
        Peer peer = new Peer(Path.of(args[1]), Path.of(args[2]), Path.of(args[3]));
        if (args[0].equals("client")) {
            peer.obey(args[4]);
        } else {
            peer.serve(Integer.parseInt(args[4]), protocol(args[5]));
        }
    }

    private Peer(Path ca, Path cert, Path key) throws GeneralSecurityException, IOException {
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, PASSWORD);
        own.setKeyEntry("own", privateKey(key), PASSWORD, new Certificate[] {certificate(cert)});
        keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, PASSWORD);
        KeyStore authorities = KeyStore.getInstance("PKCS12");
        authorities.load(null, PASSWORD);
        authorities.setCertificateEntry("ca", certificate(ca));
        trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(authorities);
    }

    private static Certificate certificate(Path pem) throws GeneralSecurityException, IOException {
        return CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(Files.readAllBytes(pem)));
    }

    private static PrivateKey privateKey(Path pem) throws GeneralSecurityException, IOException {
        String base64 = Files.readString(pem).replaceAll("-----[A-Z ]+-----", "");
        byte[] der = Base64.getMimeDecoder().decode(base64);
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(der));
    }

    private static String protocol(String word) {
        return word.equals("tls1.2") ? "TLSv1.2" : "TLSv1.3";
    }

    private SSLContext context() throws GeneralSecurityException {
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private void obey(String host) throws IOException {
        Map<String, SSLContext> slots = new HashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.trim().split(" ");
            try {
                System.out.println(answer(slots, host, words));
            } catch (IOException | GeneralSecurityException | RuntimeException error) {
                System.out.println("error " + error.toString().replace('\n', ' '));
            }
            System.out.flush();
        }
    }

    private String answer(Map<String, SSLContext> slots, String host, String[] words)
            throws GeneralSecurityException, IOException {
        if (words.length == 2 && words[0].equals("forget")) {
            slots.remove(words[1]);
            return "ok";
        }
        if (words.length != 6 || !words[0].equals("connect")) {
            return "error not understood: " + String.join(" ", words);
        }
        // One context is one simulated client: the session cache is the context's.
        if (!slots.containsKey(words[1])) {
            slots.put(words[1], context());
        }
        return visit(slots.get(words[1]), host, words);
    }

    private static String visit(SSLContext context, String host, String[] words) throws IOException {
        boolean offered = context.getClientSessionContext().getIds().hasMoreElements();
        long start = System.currentTimeMillis();
        try (Socket tcp = new Socket()) {
            tcp.setSoTimeout(PATIENCE_MS);
            tcp.bind(new InetSocketAddress(InetAddress.getByName(words[3]), 0));
            InetAddress target = InetAddress.getByName(words[4]);
            tcp.connect(new InetSocketAddress(target, Integer.parseInt(words[5])), PATIENCE_MS);
            // The cache's key: the same whatever the target, as it is for a client of the VIP.
            SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket(tcp, host, PORT, true);
            tls.setEnabledProtocols(new String[] {protocol(words[2])});
            tls.startHandshake();
            tls.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
            tls.getInputStream().readAllBytes();
            SSLSession session = tls.getSession();
            // A resumed session keeps the time at which it was first made, in TLS 1.2 and 1.3 alike.
            boolean resumed = session.getCreationTime() < start;
            String name = ((X509Certificate) session.getPeerCertificates()[0]).getSubjectX500Principal().getName();
            tls.close();
            return "ok " + digit(offered) + " " + digit(resumed) + " " + name.replaceFirst("^CN=", "");
        }
    }

    private static int digit(boolean yes) {
        return yes ? 1 : 0;
    }

    private void serve(int port, String protocol) throws GeneralSecurityException, IOException {
        SSLServerSocket listener =
                (SSLServerSocket) context().getServerSocketFactory().createServerSocket(port, 256);
        listener.setNeedClientAuth(true);
        listener.setEnabledProtocols(new String[] {protocol});
        while (true) {
            Socket socket = listener.accept();
            Thread thread = new Thread(() -> reply(socket));
            thread.setDaemon(true);
            thread.start();
        }
    }

    /** Answers one request. A connection that fails is the client's to report. */
    private static void reply(Socket socket) {
        try (socket) {
            socket.setSoTimeout(PATIENCE_MS);
            InputStream in = socket.getInputStream();
            int newlines = 0;
            while (newlines < 2) {
                int read = in.read();
                if (read < 0) {
                    return;
                }
                newlines = read == '\n' ? newlines + 1 : read == '\r' ? newlines : 0;
            }
            socket.getOutputStream().write(
                    "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
                            .getBytes(StandardCharsets.US_ASCII));
            // A plain close() would send user_canceled first, which Go and GnuTLS take for an error.
            ((SSLSocket) socket).shutdownOutput();
            in.readAllBytes();
        } catch (IOException closed) {
            // Health checks come without TLS.
        }
    }
}
