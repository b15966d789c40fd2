// Go's crypto/tls as both ends of the matrix: `client CA CERT KEY HOST` obeys lines on stdin (../README.md), and
// `server CA CERT KEY ADDRESS tls1.2|tls1.3 on|off` answers one request per connection, with tickets on or off.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

const patience = 10 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 5 {
		return errors.New("expected client|server CA CERT KEY HOST|ADDRESS")
	}
	pem, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(pem)
	identity, err := tls.LoadX509KeyPair(args[2], args[3])
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{identity}}
	switch {
	case args[0] == "client":
		config.RootCAs, config.ServerName = authorities, args[4]
		return obey(config)
	case args[0] == "server" && len(args) == 7:
		config.ClientCAs, config.ClientAuth = authorities, tls.RequireAndVerifyClientCert
		config.MinVersion = version(args[5])
		config.MaxVersion = config.MinVersion
		config.SessionTicketsDisabled = args[6] == "off"
		return serve(args[4], config)
	}
	return errors.New("expected client or server")
}

func version(word string) uint16 {
	if word == "tls1.2" {
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}

// kept is a session cache for one session: the last one that was given.
type kept struct{ session *tls.ClientSessionState }

func (k *kept) Get(string) (*tls.ClientSessionState, bool) { return k.session, k.session != nil }

func (k *kept) Put(_ string, session *tls.ClientSessionState) { k.session = session }

func obey(config *tls.Config) error {
	slots := map[string]*kept{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 2 && words[0] == "forget":
			delete(slots, words[1])
			fmt.Println("ok")
		case len(words) == 6 && words[0] == "connect":
			if slots[words[1]] == nil {
				slots[words[1]] = &kept{}
			}
			fmt.Println(connect(config.Clone(), slots[words[1]], words[2:]))
		default:
			fmt.Println("error not understood:", lines.Text())
		}
	}
	return lines.Err()
}

// connect visits a server; words are the version, the source address, the target address and its port.
func connect(config *tls.Config, slot *kept, words []string) string {
	offered := slot.session != nil
	config.ClientSessionCache = slot
	config.MinVersion = version(words[0])
	config.MaxVersion = config.MinVersion
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(words[1])}}
	tcp, err := dialer.Dial("tcp", net.JoinHostPort(words[2], words[3]))
	if err != nil {
		return "error " + err.Error()
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(tcp, config)
	if _, err = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return "error " + err.Error()
	}
	if _, err = io.ReadAll(conn); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "error " + err.Error()
	}
	state := conn.ConnectionState()
	name := state.PeerCertificates[0].Subject.CommonName
	return fmt.Sprintf("ok %d %d %s", digit(offered), digit(state.DidResume), name)
}

func digit(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func serve(address string, config *tls.Config) error {
	listener, err := tls.Listen("tcp", address, config)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	var request []byte
	piece := make([]byte, 1024)
	for !bytes.Contains(request, []byte("\r\n\r\n")) {
		n, err := conn.Read(piece)
		if err != nil {
			return
		}
		request = append(request, piece[:n]...)
	}
	io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
}
