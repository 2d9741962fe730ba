// Package centrifuge opens the part of Centrifuge that package bench compares with: its hub's adding and removing of a
// subscription, which is not exported. What a Client does around it (its own map of channels, the reply, the broker) is
// left out, to Centrifuge's advantage.
package centrifuge

import (
	"context"
	_ "unsafe" // for linkname

	"github.com/centrifugal/centrifuge"
	"github.com/centrifugal/protocol"
)

// A Hub is a node's, whose broker is not running.
type Hub struct {
	node *centrifuge.Node
	hub  *centrifuge.Hub
}

// A Client is a connection that goes nowhere.
type Client = centrifuge.Client

// New returns an empty hub.
func New() (*Hub, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	return &Hub{node, node.Hub()}, nil
}

// Connect returns a new client of the hub.
func (h *Hub) Connect() (*Client, error) {
	client, _, err := centrifuge.NewClient(context.Background(), h.node, nowhere{})
	return client, err
}

// Add adds a client to a channel.
func (h *Hub) Add(channel string, client *Client) error {
	_, _, err := addSub(h.hub, channel, subInfo{client: client, subGen: 1})
	return err
}

// Remove removes a client from a channel, and reports whether it was there.
func (h *Hub) Remove(channel string, client *Client) bool {
	_, removed, _ := removeSub(h.hub, channel, client, 1)
	return removed
}

//go:linkname addSub github.com/centrifugal/centrifuge.(*Hub).addSub
func addSub(h *centrifuge.Hub, channel string, sub subInfo) (id int64, first bool, err error)

//go:linkname removeSub github.com/centrifugal/centrifuge.(*Hub).removeSub
func removeSub(h *centrifuge.Hub, channel string, c *centrifuge.Client, generation uint64) (empty, removed, isMap bool)

// A subInfo is laid out like Centrifuge's of the version in go.mod.
type subInfo struct {
	client *centrifuge.Client
	_      string        // deltaType
	_      bool          // useID
	_, _   *struct{}     // tagsFilter, serverTagsFilter
	_      bool          // isMap
	_      protocol.Type // protoType
	_      bool          // unidirectional
	subGen uint64
}

// nowhere is a transport that nothing is sent to.
type nowhere struct{}

func (nowhere) Name() string                                { return "nowhere" }
func (nowhere) AcceptProtocol() string                      { return "" }
func (nowhere) Protocol() centrifuge.ProtocolType           { return centrifuge.ProtocolTypeJSON }
func (nowhere) ProtocolVersion() centrifuge.ProtocolVersion { return centrifuge.ProtocolVersion2 }
func (nowhere) Unidirectional() bool                        { return false }
func (nowhere) Emulation() bool                             { return false }
func (nowhere) DisabledPushFlags() uint64                   { return 0 }
func (nowhere) PingPongConfig() centrifuge.PingPongConfig   { return centrifuge.PingPongConfig{} }
func (nowhere) Write([]byte) error                          { return nil }
func (nowhere) WriteMany(...[]byte) error                   { return nil }
func (nowhere) Close(centrifuge.Disconnect) error           { return nil }
