"""The CRM: sellers confirm prices, close orders, and ask to call them off."""
