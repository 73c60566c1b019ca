#![forbid(unsafe_code)]
//! The functions of PKCS#11 2.40: one table, from which everything else is made.

/// Hands the table to the macro `$then`. A row begins with how the function is passed on:
/// `session` and `global` as it is (with or without a session as its first argument), and
/// `own` by a function of its own in `ffi.rs`, because something else must be done as well.
macro_rules! for_each_function {
    ($then:ident) => {
        $then! {
            own C_Initialize;
            own C_Finalize;
            global C_GetInfo(info: *mut CK_INFO);
            own C_GetFunctionList;
            own C_GetSlotList;
            global C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
            own C_GetTokenInfo;
            own C_GetMechanismList;
            own C_GetMechanismInfo;
            global C_InitToken(
                slot: CK_SLOT_ID, text: *mut CK_UTF8CHAR, len: CK_ULONG,
                text_2: *mut CK_UTF8CHAR,
            );
            session C_InitPIN(session: CK_SESSION_HANDLE, text: *mut CK_UTF8CHAR, len: CK_ULONG);
            session C_SetPIN(
                session: CK_SESSION_HANDLE, text: *mut CK_UTF8CHAR, len: CK_ULONG,
                text_2: *mut CK_UTF8CHAR, len_2: CK_ULONG,
            );
            own C_OpenSession;
            own C_CloseSession;
            own C_CloseAllSessions;
            session C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO);
            session C_GetOperationState(
                session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_SetOperationState(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                object: CK_OBJECT_HANDLE, object_2: CK_OBJECT_HANDLE,
            );
            own C_Login;
            session C_Logout(session: CK_SESSION_HANDLE);
            session C_CreateObject(
                session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
                made: *mut CK_OBJECT_HANDLE,
            );
            session C_CopyObject(
                session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
                template: *mut CK_ATTRIBUTE, len: CK_ULONG, made: *mut CK_OBJECT_HANDLE,
            );
            session C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
            session C_GetObjectSize(
                session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, out_len: *mut CK_ULONG,
            );
            own C_GetAttributeValue;
            session C_SetAttributeValue(
                session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
                template: *mut CK_ATTRIBUTE, len: CK_ULONG,
            );
            session C_FindObjectsInit(
                session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
            );
            session C_FindObjects(
                session: CK_SESSION_HANDLE, made: *mut CK_OBJECT_HANDLE, len: CK_ULONG,
                out_len: *mut CK_ULONG,
            );
            session C_FindObjectsFinal(session: CK_SESSION_HANDLE);
            own C_EncryptInit;
            own C_Encrypt;
            own C_EncryptUpdate;
            session C_EncryptFinal(
                session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            own C_DecryptInit;
            own C_Decrypt;
            own C_DecryptUpdate;
            session C_DecryptFinal(
                session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM);
            session C_Digest(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_DigestUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
            session C_DigestKey(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
            session C_DigestFinal(
                session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_SignInit(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                object: CK_OBJECT_HANDLE,
            );
            session C_Sign(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
            session C_SignFinal(
                session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_SignRecoverInit(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                object: CK_OBJECT_HANDLE,
            );
            session C_SignRecover(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_VerifyInit(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                object: CK_OBJECT_HANDLE,
            );
            session C_Verify(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                data_2: *mut CK_BYTE, len_2: CK_ULONG,
            );
            session C_VerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
            session C_VerifyFinal(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
            session C_VerifyRecoverInit(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                object: CK_OBJECT_HANDLE,
            );
            session C_VerifyRecover(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_DigestEncryptUpdate(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_DecryptDigestUpdate(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_SignEncryptUpdate(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_DecryptVerifyUpdate(
                session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG,
                out: *mut CK_BYTE, out_len: *mut CK_ULONG,
            );
            session C_GenerateKey(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                template: *mut CK_ATTRIBUTE, len: CK_ULONG, made: *mut CK_OBJECT_HANDLE,
            );
            session C_GenerateKeyPair(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                template: *mut CK_ATTRIBUTE, len: CK_ULONG, template_2: *mut CK_ATTRIBUTE,
                len_2: CK_ULONG, made: *mut CK_OBJECT_HANDLE, made_2: *mut CK_OBJECT_HANDLE,
            );
            own C_WrapKey;
            own C_UnwrapKey;
            session C_DeriveKey(
                session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
                object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, len: CK_ULONG,
                made: *mut CK_OBJECT_HANDLE,
            );
            session C_SeedRandom(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
            own C_GenerateRandom;
            session C_GetFunctionStatus(session: CK_SESSION_HANDLE);
            session C_CancelFunction(session: CK_SESSION_HANDLE);
            global C_WaitForSlotEvent(
                flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut c_void,
            );
        }
    };
}
pub(crate) use for_each_function;

macro_rules! names {
    ($($kind:ident $name:ident $(($($argument:tt)*))?;)*) => {
        /// A function, by its name in C.
        #[allow(
            non_camel_case_types,
            clippy::enum_variant_names,
            reason = "the names are those of the standard"
        )]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Function { $($name),* }

        impl Function {
            /// Every function, in the order of the function list.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in C.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}
for_each_function!(names);

impl Function {
    /// The function of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name() == name)
    }

    /// Whether it is in the group `device`: on a network HSM, it asks the device. What is left
    /// out is answered by the library on this side, or waits for an event anyway.
    pub(crate) const fn asks_device(self) -> bool {
        !matches!(
            self,
            Self::C_Initialize
                | Self::C_Finalize
                | Self::C_GetInfo
                | Self::C_GetFunctionList
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
        matches!(
            self,
            Self::C_GetAttributeValue
                | Self::C_Encrypt
                | Self::C_EncryptUpdate
                | Self::C_Decrypt
                | Self::C_DecryptUpdate
                | Self::C_WrapKey
        )
    }
}
