package main

import "encoding/json"

// A user is what channel_data says about who subscribes.
type user struct {
	ID   userID          `json:"user_id"`
	Info json.RawMessage `json:"user_info,omitempty"`
}

// A userID may come as a string or a number; it is a string everywhere else.
type userID string

func (id *userID) UnmarshalJSON(data []byte) error {
	if data[0] != '"' {
		var number json.Number
		err := json.Unmarshal(data, &number)
		*id = userID(number)
		return err
	}
	return json.Unmarshal(data, (*string)(id))
}
