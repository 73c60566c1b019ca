#![forbid(unsafe_code)]
//! The functions of PKCS#11: one table, from which everything else is made.

/// Hands the table to the macro `$then`: the functions of 2.40, those new in 3.0, and those new
/// in 3.2. A row begins with how the function is passed on: `session` and `global` as it is (with
/// or without a session as its first argument), `bytes` likewise, with a session, and it gives
/// bytes out (the buffer and its length stand between the semicolons), and `own` by a function of
/// its own in `ffi.rs`, because something else must be done as well.
macro_rules! for_each_function {
    ($then:ident) => {
        $then! {
            {
                own C_Initialize;
                own C_Finalize;
                global C_GetInfo(info: *mut CK_INFO);
                own C_GetFunctionList;
                own C_GetSlotList;
                own C_GetSlotInfo;
                own C_GetTokenInfo;
                own C_GetMechanismList;
                own C_GetMechanismInfo;
                own C_InitToken;
                own C_InitPIN;
                own C_SetPIN;
                own C_OpenSession;
                own C_CloseSession;
                own C_CloseAllSessions;
                session C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO);
                bytes C_GetOperationState(session: CK_SESSION_HANDLE; out, out_len);
                session C_SetOperationState(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                    object: CK_OBJECT_HANDLE, object_2: CK_OBJECT_HANDLE
                );
                own C_Login;
                session C_Logout(session: CK_SESSION_HANDLE);
                session C_CreateObject(
                    session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
                    made: *mut CK_OBJECT_HANDLE
                );
                session C_CopyObject(
                    session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
                    template: *mut CK_ATTRIBUTE, len: CK_ULONG, made: *mut CK_OBJECT_HANDLE
                );
                session C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
                session C_GetObjectSize(
                    session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, out_len: *mut CK_ULONG
                );
                own C_GetAttributeValue;
                session C_SetAttributeValue(
                    session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
                    template: *mut CK_ATTRIBUTE, len: CK_ULONG
                );
                session C_FindObjectsInit(
                    session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG
                );
                session C_FindObjects(
                    session: CK_SESSION_HANDLE, made: *mut CK_OBJECT_HANDLE, len: CK_ULONG,
                    out_len: *mut CK_ULONG
                );
                session C_FindObjectsFinal(session: CK_SESSION_HANDLE);
                own C_EncryptInit;
                bytes C_Encrypt(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_EncryptUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_EncryptFinal(session: CK_SESSION_HANDLE; out, out_len);
                own C_DecryptInit;
                bytes C_Decrypt(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_DecryptUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_DecryptFinal(session: CK_SESSION_HANDLE; out, out_len);
                session C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM);
                bytes C_Digest(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_DigestUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_DigestKey(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
                bytes C_DigestFinal(session: CK_SESSION_HANDLE; out, out_len);
                session C_SignInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_Sign(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
                bytes C_SignFinal(session: CK_SESSION_HANDLE; out, out_len);
                session C_SignRecoverInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_SignRecover(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_VerifyInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                session C_Verify(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                    data_2: *mut CK_BYTE, len_2: CK_ULONG
                );
                session C_VerifyUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_VerifyFinal(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_VerifyRecoverInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_VerifyRecover(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_DigestEncryptUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_DecryptDigestUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_SignEncryptUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                bytes C_DecryptVerifyUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_GenerateKey(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    template: *mut CK_ATTRIBUTE, len: CK_ULONG, made: *mut CK_OBJECT_HANDLE
                );
                session C_GenerateKeyPair(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    template: *mut CK_ATTRIBUTE, len: CK_ULONG, template_2: *mut CK_ATTRIBUTE,
                    len_2: CK_ULONG, made: *mut CK_OBJECT_HANDLE, made_2: *mut CK_OBJECT_HANDLE
                );
                own C_WrapKey;
                own C_UnwrapKey;
                session C_DeriveKey(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
                    made: *mut CK_OBJECT_HANDLE
                );
                session C_SeedRandom(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
                own C_GenerateRandom;
                session C_GetFunctionStatus(session: CK_SESSION_HANDLE);
                session C_CancelFunction(session: CK_SESSION_HANDLE);
                global C_WaitForSlotEvent(
                    flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut c_void
                );
            }
            {
                own C_GetInterfaceList;
                own C_GetInterface;
                own C_LoginUser;
                session C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS);
                session C_MessageEncryptInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_EncryptMessage(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG, data_2: *mut CK_BYTE, len_2: CK_ULONG; out,
                    out_len
                );
                session C_EncryptMessageBegin(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG
                );
                bytes C_EncryptMessageNext(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG; out, out_len; flags: CK_FLAGS
                );
                session C_MessageEncryptFinal(session: CK_SESSION_HANDLE);
                session C_MessageDecryptInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_DecryptMessage(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG, data_2: *mut CK_BYTE, len_2: CK_ULONG; out,
                    out_len
                );
                session C_DecryptMessageBegin(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG
                );
                bytes C_DecryptMessageNext(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG; out, out_len; flags: CK_FLAGS
                );
                session C_MessageDecryptFinal(session: CK_SESSION_HANDLE);
                session C_MessageSignInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                bytes C_SignMessage(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_SignMessageBegin(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG
                );
                bytes C_SignMessageNext(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG; out, out_len
                );
                session C_MessageSignFinal(session: CK_SESSION_HANDLE);
                session C_MessageVerifyInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE
                );
                session C_VerifyMessage(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG, data_2: *mut CK_BYTE, len_2: CK_ULONG
                );
                session C_VerifyMessageBegin(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG
                );
                session C_VerifyMessageNext(
                    session: CK_SESSION_HANDLE, parameter: *mut c_void, parameter_len: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG, data_2: *mut CK_BYTE, len_2: CK_ULONG
                );
                session C_MessageVerifyFinal(session: CK_SESSION_HANDLE);
            }
            {
                bytes C_EncapsulateKey(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG; out,
                    out_len; made: *mut CK_OBJECT_HANDLE
                );
                session C_DecapsulateKey(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
                    data: *mut CK_BYTE, len_2: CK_ULONG, made: *mut CK_OBJECT_HANDLE
                );
                session C_VerifySignatureInit(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_VerifySignature(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_VerifySignatureUpdate(
                    session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG
                );
                session C_VerifySignatureFinal(session: CK_SESSION_HANDLE);
                session C_GetSessionValidationFlags(
                    session: CK_SESSION_HANDLE, kind: CK_SESSION_VALIDATION_FLAGS_TYPE,
                    flags: *mut CK_FLAGS
                );
                session C_AsyncComplete(
                    session: CK_SESSION_HANDLE, text: *mut CK_UTF8CHAR, result: *mut CK_ASYNC_DATA
                );
                session C_AsyncGetID(
                    session: CK_SESSION_HANDLE, text: *mut CK_UTF8CHAR, id: *mut CK_ULONG
                );
                session C_AsyncJoin(
                    session: CK_SESSION_HANDLE, text: *mut CK_UTF8CHAR, id: CK_ULONG,
                    data: *mut CK_BYTE, len: CK_ULONG
                );
                bytes C_WrapKeyAuthenticated(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, object_2: CK_OBJECT_HANDLE, data: *mut CK_BYTE,
                    len: CK_ULONG; out, out_len
                );
                session C_UnwrapKeyAuthenticated(
                    session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                    object: CK_OBJECT_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                    template: *mut CK_ATTRIBUTE, len_2: CK_ULONG, data_2: *mut CK_BYTE,
                    len_3: CK_ULONG, made: *mut CK_OBJECT_HANDLE
                );
            }
        }
    };
}
pub(crate) use for_each_function;

macro_rules! names {
    ($({$($kind:ident $name:ident $(($($argument:tt)*))?;)*})*) => {
        /// A function, by its name in C.
        #[allow(
            non_camel_case_types,
            clippy::enum_variant_names,
            reason = "the names are those of the standard"
        )]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Function { $($($name),*),* }

        impl Function {
            /// Every function, in the order of the table.
            pub(crate) const ALL: &[Self] = &[$($(Self::$name),*),*];

            /// Its name in C.
            pub(crate) const fn name(self) -> &'static str {
                match self { $($(Self::$name => stringify!($name)),*),* }
            }

            /// Whether its row begins with `bytes`.
            const fn is_of_bytes(self) -> bool {
                match self { $($(Self::$name => names!(@ $kind)),*),* }
            }
        }
    };
    (@ bytes) => { true };
    (@ $other:ident) => { false };
}
for_each_function!(names);

impl Function {
    /// The function of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name() == name)
    }

    /// Whether a program finds the others by it. It cannot be struck: a module without it is none.
    pub(crate) const fn is_way_in(self) -> bool {
        matches!(self, Self::C_GetFunctionList | Self::C_GetInterface | Self::C_GetInterfaceList)
    }

    /// Whether it is in the group `device`: on a network HSM, it asks the device. What is left
    /// out is answered by the library on this side, or waits for an event anyway.
    pub(crate) const fn asks_device(self) -> bool {
        !self.is_way_in()
            && !matches!(
                self,
                Self::C_Initialize
                    | Self::C_Finalize
                    | Self::C_GetInfo
                    | Self::C_GetFunctionStatus
                    | Self::C_CancelFunction
                    | Self::C_WaitForSlotEvent
            )
    }

    /// Whether it gives out bytes in which a bit can be flipped.
    pub(crate) const fn gives_bytes(self) -> bool {
        self.gives_length() || matches!(self, Self::C_GenerateRandom)
    }

    /// Whether it gives out bytes and says how many.
    pub(crate) const fn gives_length(self) -> bool {
        self.is_of_bytes() || matches!(self, Self::C_GetAttributeValue | Self::C_WrapKey)
    }
}
