package channels_test

import (
	"fmt"
	"testing"

	"github.com/pusherhooks/webhook"
	"github.com/pusherhooks/webhook/channels"
)

// deaf takes all events and does nothing.
type deaf struct{}

func (deaf) Emit(string, webhook.Event) error             { return nil }
func (deaf) Wants(string, webhook.EventType, string) bool { return true }

// A subscription that comes and goes, on a channel that others are on.
func BenchmarkSubscribe(b *testing.B) {
	for name, on := range map[string]string{"public": "news-", "presence": "presence-"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			t := channels.New(deaf{}, channels.Options{})
			names := make([]string, 1000)
			stays, _ := t.Connect("app", "stays")
			for i := range names {
				names[i] = fmt.Sprint(on, i)
				_, _ = stays.Subscribe(names[i], channels.Member{UserID: "stays"})
			}
			s, _ := t.Connect("app", "comes")
			i := 0
			for b.Loop() {
				name := names[i%len(names)]
				i++
				if _, err := s.Subscribe(name, channels.Member{UserID: "comes"}); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Unsubscribe(name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSubscribeOnAllCores(b *testing.B) {
	t := channels.New(deaf{}, channels.Options{})
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("news-", i)
	}
	b.RunParallel(func(pb *testing.PB) {
		s, _ := t.Connect("app", fmt.Sprintf("%p", pb))
		for i := 0; pb.Next(); i++ {
			name := names[i%len(names)]
			_, _ = s.Subscribe(name, channels.Member{})
			_, _ = s.Unsubscribe(name)
		}
	})
}
