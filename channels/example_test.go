package channels_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// A printer stands for the dispatcher.
type printer struct{}

func (printer) Wants(string, webhook.EventType, string) bool { return true }

func (printer) Emit(appID string, e webhook.Event) error {
	fmt.Printf("webhook: %s %s%s\n", e.Type, e.Channel, strings.TrimRight(" "+e.UserID, " "))
	return nil
}

// Two tabs of one user on a presence channel: one member.
func Example() {
	tracker := channels.New(printer{}, channels.Options{})
	for _, id := range []string{"1.1", "1.2"} {
		socket, err := tracker.Connect("app", id)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer socket.Leave()
		change, err := socket.Subscribe("presence-room", channels.Member{UserID: "ada", Info: json.RawMessage(`{"name":"Ada"}`)})
		fmt.Println("new member:", change.Member, "sockets:", change.Subscribers, err)
	}
	for socket := range tracker.Sockets("app", "presence-room") {
		fmt.Println("a message goes to", socket.ID())
	}
	// Output:
	// webhook: channel_occupied presence-room
	// webhook: member_added presence-room ada
	// new member: true sockets: 1 <nil>
	// new member: false sockets: 2 <nil>
	// a message goes to 1.1
	// a message goes to 1.2
	// webhook: member_removed presence-room ada
	// webhook: channel_vacated presence-room
}
