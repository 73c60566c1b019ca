package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/miekg/pkcs11"
)

// token is an open, logged-in session and the AES key to work with.
type token struct {
	module  *pkcs11.Ctx
	path    string
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
}

func openToken(o options) (*token, error) {
	pin, err := os.ReadFile(o.pinFile)
	if err != nil {
		return nil, err
	}
	module := pkcs11.New(o.module)
	if module == nil {
		return nil, fmt.Errorf("%s cannot be loaded", o.module)
	}
	if err := module.Initialize(); err != nil {
		return nil, err
	}
	t := &token{module: module, path: o.module}
	if err := t.login(o.tokenLabel, strings.TrimRight(string(pin), "\r\n")); err != nil {
		t.close()
		return nil, err
	}
	if err := t.findOrMakeKey(o.keyLabel); err != nil {
		t.close()
		return nil, fmt.Errorf("key %q: %w", o.keyLabel, err)
	}
	return t, nil
}

func (t *token) login(label, pin string) error {
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		info, err := t.module.GetTokenInfo(slot)
		if err != nil || info.Label != label {
			continue
		}
		t.session, err = t.module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return err
		}
		return t.module.Login(t.session, pkcs11.CKU_USER, pin)
	}
	return fmt.Errorf("no token %q", label)
}

func (t *token) findOrMakeKey(label string) error {
	wanted := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := t.module.FindObjectsInit(t.session, wanted); err != nil {
		return err
	}
	found, _, err := t.module.FindObjects(t.session, 1)
	if end := t.module.FindObjectsFinal(t.session); err == nil {
		err = end
	}
	if err != nil {
		return err
	}
	if len(found) == 1 {
		t.key = found[0]
		return nil
	}
	// A token object, as a real KEK is: SoftHSM looks at its file at every use.
	t.key, err = t.module.GenerateKey(t.session,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)},
		append(wanted,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
			pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
	return err
}

func (t *token) close() {
	_ = t.module.Finalize()
	t.module.Destroy()
}
